-- Run once, when the volume is first made: Label Studio has a database of its own, so has the backend.
CREATE DATABASE usam OWNER usam;
