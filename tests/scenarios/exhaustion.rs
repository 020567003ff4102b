//! What is used up, and what must be left: battery (d) of the hardening rules, each row by its id.

mod counts; // D4, D7, D8, D9: connections, names, lines, patterns
mod memory; // D2, D5, D6: what idles, what is slow, what happens near the ceiling
mod slow; // D1: peers that take their time
mod upstream; // D10, D11: endpoints that fail or stop
