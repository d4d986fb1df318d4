//! The addon: converts arguments, forwards to `engine`, and maps errors to stable codes.
