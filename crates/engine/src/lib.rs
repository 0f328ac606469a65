//! The slow path as a sans-IO state machine.
