//! What is used up, and what must be left: battery (d) of the hardening rules, each row by its id.

mod memory; // D2, D5, D6
