//! The hardening battery: rows of bytes and faults, each by its id, with what must come of it (R5).
//!
//! Ids are those of the battery's table in docs/hardening.md. Every test goes through [`sidegate_tests::guarded::Guarded`], which checks what must
//! hold after any case.

mod audit; // E5, E8, E11: nothing lost, nothing twice
mod balance; // E7, E10: names that do not resolve, endpoints that are slow or gone
mod bodies; // A2, A11, A12, A22: content and its end
mod framing; // A1, A3, A4, A6, A7: how long a message is
mod headers; // I1, I2, I5: what is written to be traced, counted or routed otherwise
mod interim; // A19, A20: interim responses and who waits for one
mod lines; // A5, A8, A9, A10, A17, A23, A25: lines, bytes, sizes, order
mod responses; // A18, A21, A26: what an origin may say
mod targets; // A13, A14, A24, I7: who and what is asked for
mod upstream; // E1, E2, E3, E6, E9: endpoints that fail
