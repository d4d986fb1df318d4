//! What must be the same when a session is opened again, beside the model: the shape of its rows, the seed of its hash
//! functions and rotations, and its index.

use lsh_attn::rows::RowType;

use crate::config::{Policy, Shape};

/// Code length of the index that a session made under [`Policy::Exact`] has room for.
const DEFAULT_BITS: u32 = 4;

/// Fields that [`index_fields`] makes.
const INDEX_FIELDS: [&str; 5] = ["index", "sketchBits", "residual", "lshK", "lshL"];

/// A field's name and value.
pub(crate) type Field = (String, String);

/// The rows' shape and type, and the seed.
pub(crate) fn row_fields(shape: Shape, rows: RowType, seed: u64) -> Vec<Field> {
    let Shape { layers, heads, kv_heads, head_dim } = shape;
    let numbers = [("layers", layers), ("heads", heads), ("kvHeads", kv_heads), ("headDim", head_dim)];
    let mut fields: Vec<Field> = numbers.map(|(name, number)| field(name, number)).to_vec();
    fields.extend([field("rows", rows.name()), field("seed", seed)]);
    fields
}

/// The index that a policy samples from; those that need none leave room for the default one.
pub(crate) fn index_fields(policy: Policy) -> Vec<Field> {
    const NONE: &str = "none";
    let values = match policy {
        Policy::Lsh { k, l } => {
            ["lsh".to_owned(), NONE.to_owned(), NONE.to_owned(), k.to_string(), l.to_string()]
        }
        Policy::Sketch { bits, residual, .. } => sketch_values(bits, residual),
        Policy::Exact | Policy::Compare { .. } => sketch_values(DEFAULT_BITS, false),
    };
    fn sketch_values(bits: u32, residual: bool) -> [String; 5] {
        ["sketch".to_owned(), bits.to_string(), residual.to_string(), NONE.to_owned(), NONE.to_owned()]
    }
    INDEX_FIELDS.into_iter().zip(values).map(|(name, value)| field(name, value)).collect()
}

/// The index's fields of a fingerprint.
pub(crate) fn index_of(fingerprint: &[Field]) -> Vec<Field> {
    fingerprint.iter().filter(|(name, _)| INDEX_FIELDS.contains(&name.as_str())).cloned().collect()
}

/// K and L, if these fields are of tables that there can be.
pub(crate) fn tables_of(fields: &[Field]) -> Option<(usize, usize)> {
    let number = |name| fields.iter().find(|(field, _)| field == name)?.1.parse().ok();
    let (k, l) = (number("lshK")?, number("lshL")?);
    Policy::Lsh { k, l }.check().is_ok().then_some((k, l))
}

fn field(name: &str, value: impl ToString) -> Field {
    (name.to_owned(), value.to_string())
}
