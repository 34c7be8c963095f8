//! Postgres' own scanner and grammar as the oracle of the router's lexer and planner: see `tests/`.
