//! Stands in for the planner until the router crate has one.

/// Who plans.
#[derive(Debug, Default)]
pub struct Planner;
