//! Tests against a real Redis, which each test starts for itself.
