//! Which tokens may come next where a text has to follow a JSON schema.
//!
//! The grammar is llguidance's: an Earley parser over a lexer of derivatives, asked about all tokens at once by a walk over
//! the trie of their bytes. Its limits on lexer states and parser items make a hostile schema an error instead of a wait.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use napi_derive::napi;
use serde_json::Value;

use crate::arguments::integer;
use crate::failure::{Code, Failure, contained};

/// An array of bits to write into. The name is for napi's macro, which takes a bare `&mut` for a class.
type Bits<'a> = &'a mut [u32];

/// The tokens of a model as bytes, in the shape that grammars look them up in. Made once for a model.
#[napi]
pub struct NativeVocabulary {
    factory: Arc<ParserFactory>,
}

#[napi]
impl NativeVocabulary {
    /// `bytes` of all tokens one after the other, and where each of them ends there. A token without bytes, as control tokens
    /// are, is in no text. `endTokens`, of which there is one at least, may come where the text may end.
    #[napi(constructor)]
    pub fn new(bytes: &[u8], ends: &[u32], end_tokens: &[u32]) -> napi::Result<Self, Code> {
        let words = words(bytes, ends)?;
        let Some(&first) = end_tokens.first() else {
            return Err(Failure::invalid("endTokens is empty".to_owned()).into());
        };
        if let Some(end) = end_tokens.iter().find(|&&end| end as usize >= words.len()) {
            return Err(
                Failure::invalid(format!("the end token {end} is not among {} tokens", words.len())).into()
            );
        }
        let factory = contained(|| {
            let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, first), &words);
            let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie.with_eos_tokens(end_tokens)));
            Ok(ParserFactory::new_simple(&tokens))
        })
        .flatten()?;
        let mut factory = factory.map_err(|error| Failure::invalid(error.to_string()))?;
        // Its errors would show the text so far.
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(NativeVocabulary { factory: Arc::new(factory) })
    }
}

fn words(bytes: &[u8], ends: &[u32]) -> Result<Vec<Vec<u8>>, Failure> {
    let starts = [0].into_iter().chain(ends.iter().copied());
    starts
        .zip(ends)
        .map(|(start, &end)| bytes.get(start as usize..end as usize).map(<[u8]>::to_vec))
        .collect::<Option<_>>()
        .ok_or_else(|| Failure::invalid("ends do not rise, or go past the bytes".to_owned()))
}

/// One text that is being written under a schema.
#[napi]
pub struct NativeGrammar {
    /// None once it was disposed of.
    matcher: Option<Matcher>,
}

#[napi]
impl NativeGrammar {
    /// A text that is JSON of this schema, itself JSON; on one line, with a space after commas and colons, since a small
    /// model that may write any space may do so without end. Throws INVALID_SCHEMA.
    #[napi(constructor)]
    pub fn new(vocabulary: &NativeVocabulary, schema: String) -> napi::Result<Self, Code> {
        let schema = one_line(&schema)?;
        let matcher = contained(|| {
            let parser = vocabulary.factory.create_parser(TopLevelGrammar::from_json_schema(schema));
            Ok(Matcher::new(parser))
        })
        .flatten()?;
        match matcher.get_error() {
            Some(error) => Err(invalid(&error).into()),
            None => Ok(NativeGrammar { matcher: Some(matcher) }),
        }
    }

    /// Writes a bit for each token [tokens / 32, rounded up]: whether it may come next. False, and nothing written, where
    /// the text is complete.
    #[napi]
    pub fn allowed(
        &mut self,
        #[napi(ts_arg_type = "Uint32Array")] bits: Bits<'_>,
    ) -> napi::Result<bool, Code> {
        let matcher = self.matcher()?;
        if matcher.is_stopped() && !matcher.is_error() {
            return Ok(false);
        }
        let mask = contained(|| Ok(matcher.compute_mask())).flatten()?;
        let mask = mask.map_err(|error| invalid(&error.to_string()))?;
        let words = mask.as_slice();
        let shared = words.len().min(bits.len());
        bits[..shared].copy_from_slice(&words[..shared]);
        bits[shared..].fill(0);
        Ok(true)
    }

    /// Takes the token that came. True where the text is complete with it.
    #[napi]
    pub fn push(&mut self, token: f64) -> napi::Result<bool, Code> {
        let token = integer("token", token, u32::MAX)? as u32;
        let matcher = self.matcher()?;
        let taken = contained(|| Ok(matcher.consume_token(token))).flatten()?;
        taken.map_err(|error| invalid(&error.to_string()))?;
        Ok(matcher.is_stopped())
    }

    /// Frees the grammar at once, whose megabytes JavaScript's collector does not see. Later calls fail with DISPOSED.
    #[napi]
    pub fn dispose(&mut self) {
        self.matcher = None;
    }

    fn matcher(&mut self) -> Result<&mut Matcher, Failure> {
        self.matcher.as_mut().ok_or_else(Failure::disposed)
    }
}

/// The schema with the options of its compilation in place of any that came with it.
fn one_line(schema: &str) -> Result<Value, Failure> {
    let mut schema = match serde_json::from_str(schema).map_err(|error| invalid(&error.to_string()))? {
        Value::Bool(true) => Value::Object(serde_json::Map::new()),
        schema @ Value::Object(_) => schema,
        _ => return Err(invalid("it is neither an object nor true")),
    };
    let options = JsonCompileOptions {
        item_separator: ", ".to_owned(),
        key_separator: ": ".to_owned(),
        whitespace_flexible: false,
        ..JsonCompileOptions::default()
    };
    options.apply_to(&mut schema);
    Ok(schema)
}

fn invalid(reason: &str) -> Failure {
    let line = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = line.chars().take(300).collect();
    Failure::schema(format!("the JSON schema cannot be followed: {short}"))
}
