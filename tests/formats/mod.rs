//! Model files as the original programs write and read them.

mod containers;
