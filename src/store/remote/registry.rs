//! A repository of an OCI registry as a store: the OCI distribution specification.
