//! Each cause, told apart.
