//! Numbers and arrays as JavaScript passes them, checked.

use crate::failure::Failure;

/// A whole number in `0..=max`. JavaScript's NaN and fractions would otherwise become 0 or be cut off.
pub fn integer(name: &str, value: f64, max: u32) -> Result<usize, Failure> {
    if value.fract() == 0.0 && (0.0..=f64::from(max)).contains(&value) {
        Ok(value as usize)
    } else {
        Err(Failure::invalid(format!("{name} is {value}; it must be a whole number from 0 to {max}")))
    }
}

/// An array of exactly `expected` elements.
pub fn length(name: &str, array: &[f32], expected: usize) -> Result<(), Failure> {
    if array.len() == expected {
        Ok(())
    } else {
        Err(Failure::invalid(format!("{name} has {} elements; {expected} are needed", array.len())))
    }
}

/// An output that shares no memory with an input, which views of one ArrayBuffer could.
pub fn apart<const N: usize>(out: &[f32], inputs: [&[f32]; N]) -> Result<(), Failure> {
    let out = out.as_ptr_range();
    for input in inputs.map(<[f32]>::as_ptr_range) {
        if input.start < out.end && out.start < input.end {
            return Err(Failure::invalid("out shares memory with an input; pass one of its own".to_owned()));
        }
    }
    Ok(())
}
