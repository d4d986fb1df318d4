//! Tests of the crate from outside, in one binary.

mod attention;
mod index;
mod kernels;
mod sketch;
mod statistics;
mod support;
