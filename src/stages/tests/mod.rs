//! Tests of stages that need what only the crate sees: faults of the disk. All others are in `tests/stages`.

mod disturbed;
