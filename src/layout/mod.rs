//! The cache on disk: an OCI image layout that holds BuildKit cache records and stage images.
