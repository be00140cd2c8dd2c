//! Backends that fail again and again: left alone by all workers together, tried by one, taken back.
