//! What a CI job does with a cache: [`journal`] holds what its commands tell each other,
//! [`capture`] makes sure right after a build that everything for the cache exists, and `save`
//! takes it from there.

pub mod capture;
pub mod journal;
