//! What a Docker engine can do, and how its build cache is taken out and put back.
