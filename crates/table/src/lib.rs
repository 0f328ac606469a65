//! The decision table: shared-memory layout, reader, writer.
