//! Tests of cryptography with known answers.
