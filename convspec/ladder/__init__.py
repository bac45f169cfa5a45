"""The seven rungs: `recipe` (a rung as data), `rungs` (the table), `run` (training), `result` and what is saved."""
