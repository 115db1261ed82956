//! Reads a Dockerfile as BuildKit does: syntax, variables, and the graph of its stages. Knows no engine.
