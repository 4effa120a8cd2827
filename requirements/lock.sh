#!/usr/bin/env bash
# Write the lock files again: every package that `make setup`, CI and the Dockerfile install, with its hashes, for
# Python 3.10 to 3.13 on all systems. `make lock` calls this with the program uv in its argument. Bounds of a site, such
# as a torch that its drivers know, are taken from the file that PIP_CONSTRAINT names.
#
#   torch.txt    torch, what it needs, and what builds sam2 against it; a site may put a build of its own in its place
#   service.txt  the service and its workers, on top of torch.txt
#   all.txt      the tools of a contributor besides
set -euo pipefail
uv="$1"
cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
compile() {
  "$uv" pip compile ${PIP_CONSTRAINT:+-c "$PIP_CONSTRAINT"} --quiet --universal --python-version 3.10 --generate-hashes --no-header --no-annotate \
    --no-emit-index-url --no-emit-find-links "$@"
}
service=(--extra science --extra service --extra demo --extra postgres)
all=("${service[@]}" --extra nano-training --extra docs --extra dev)

# sam2's build does not work with setuptools from 82 on
printf 'torch>=2.6\ntorchvision>=0.21\nsetuptools<82\nwheel\nhatchling\neditables\n' >"$work/torch.in"
echo 'setuptools<82' >"$work/bounds.txt"
compile pyproject.toml "$work/torch.in" -c "$work/bounds.txt" "${all[@]}" -o "$work/versions.txt"
compile "$work/torch.in" -c "$work/versions.txt" -o requirements/torch.txt
mapfile -t below < <(sed -n 's/^\([A-Za-z0-9_.-]*\)==.*/\1/p' requirements/torch.txt | sort -u)
compile pyproject.toml -c "$work/versions.txt" "${service[@]}" "${below[@]/#/--no-emit-package=}" -o requirements/service.txt
compile pyproject.toml -c "$work/versions.txt" "${all[@]}" "${below[@]/#/--no-emit-package=}" -o requirements/all.txt
