"""From images to proposals, and from proposals to an order of tasks."""
