//! Elements of every quantised format are those that the `gguf` Python package finds in the same block, bit for bit
//! (`scripts/reference/gguf_blocks.py`).

use dense::{Matrix, WeightType};
use serde_json::Value;

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<u32> = hexadecimal.chars().map(|digit| digit.to_digit(16).expect("a digit")).collect();
    digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

#[test]
fn elements_are_those_of_an_independent_reader() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../__test__/reference/gguf-blocks.json");
    let text = std::fs::read_to_string(path).expect("the record");
    let Value::Object(types) = serde_json::from_str(&text).expect("JSON") else { panic!("an object") };
    let mut seen = 0;
    for kind in WeightType::ALL.into_iter().filter(|kind| kind.block().0 > 1) {
        let field = |name| bytes(types[kind.name()][name].as_str().expect("a string"));
        let (block, recorded) = (field("block"), field("elements"));
        let elements: Vec<f32> =
            recorded.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect();
        let matrix = Matrix::new(kind, elements.len(), &block).expect("one block");
        assert_eq!(matrix.row(0), elements, "{}", kind.name());
        seen += 1;
    }
    assert_eq!(seen, types.len());
}
