//! Extension modules of the slow path: filter, stateful inspection, NAT.
