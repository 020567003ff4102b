//! Trace context: B3 (single and multi) and W3C, read, continued, written (D12).
