//! Tests of the crate from outside, in one binary.

mod attention;
mod index;
mod int8;
mod kernels;
mod residual;
mod sketch;
mod statistics;
mod support;
