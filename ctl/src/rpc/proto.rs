//! JSON-RPC 2.0, one document a line: how a request is read and how replies, errors and events are
//! written. Knows nothing of sockets.
//!
//! A request is `{"jsonrpc":"2.0","id":…,"method":…,"params":{…}}`. It is answered by exactly one
//! document with `result` or `error` and the same id. A method that streams sends any number of
//! notifications before that: `{"jsonrpc":"2.0","method":"event","params":{"id":…,"lost":N,"event":…}}`.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::error::{CtlError, ErrorKind, quoted};

/// The codes of the JSON-RPC 2.0 specification, and one for everything that the switch refuses.
pub mod code {
    pub const PARSE: i32 = -32700;
    pub const REQUEST: i32 = -32600;
    pub const METHOD: i32 = -32601;
    pub const PARAMS: i32 = -32602;
    pub const INTERNAL: i32 = -32603;
    pub const REFUSED: i32 = -32000;
}

/// A request's id: a string, an integer or null, as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestId(pub Json);

/// A request that is well formed.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    pub id: RequestId,
    pub method: String,
    /// An object, or null when there were none.
    pub params: Json,
}

/// What an error document says beyond its code and message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ErrorData {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ErrorKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Which command of a transaction, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// That command as it would be typed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// The `error` member of a reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub code: i32,
    pub message: String,
    #[serde(default)]
    pub data: ErrorData,
}

impl ErrorBody {
    pub fn new(code: i32, error: CtlError) -> Self {
        let data = ErrorData { kind: Some(error.kind), hint: error.hint, ..ErrorData::default() };
        Self { code, message: error.message, data }
    }
}

impl From<CtlError> for ErrorBody {
    fn from(error: CtlError) -> Self {
        let code = match error.kind {
            ErrorKind::Protocol => code::PARAMS,
            ErrorKind::Internal => code::INTERNAL,
            _ => code::REFUSED,
        };
        Self::new(code, error)
    }
}

/// A line that is no request: the error and the id to answer to, null where none could be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    pub id: RequestId,
    pub body: ErrorBody,
}

/// Reads one line.
pub fn parse(line: &[u8]) -> Result<Parsed, Box<Refused>> {
    let null = RequestId(Json::Null);
    let fail = |id: RequestId, code: i32, message: String| {
        Err(Box::new(Refused { id, body: ErrorBody::new(code, CtlError::protocol(message)) }))
    };
    // serde_json refuses nesting beyond 128 levels, so that no input can exhaust the stack.
    let document: Json = match serde_json::from_slice(line) {
        Ok(document) => document,
        Err(e) => return fail(null, code::PARSE, format!("the request is no JSON document: {e}")),
    };
    let Json::Object(mut fields) = document else {
        return fail(null, code::REQUEST, "a request is one JSON object, not a batch".to_owned());
    };
    let id = match fields.remove("id") {
        Some(id @ (Json::String(_) | Json::Number(_) | Json::Null)) => RequestId(id),
        Some(_) => return fail(null, code::REQUEST, "id must be a string or a number".to_owned()),
        None => {
            let message = "a request without id cannot be answered and is not carried out";
            return fail(null, code::REQUEST, message.to_owned());
        }
    };
    if fields.remove("jsonrpc").as_ref().and_then(Json::as_str) != Some("2.0") {
        return fail(id, code::REQUEST, "expected \"jsonrpc\":\"2.0\"".to_owned());
    }
    let Some(Json::String(method)) = fields.remove("method") else {
        return fail(id, code::REQUEST, "expected a string \"method\"".to_owned());
    };
    let params = fields.remove("params").unwrap_or(Json::Null);
    if !matches!(params, Json::Object(_) | Json::Null) {
        return fail(id, code::PARAMS, "params must be an object".to_owned());
    }
    if let Some(name) = fields.keys().next() {
        let message = format!("a request has no member {}", quoted(name));
        return fail(id, code::REQUEST, message);
    }
    Ok(Parsed { id, method, params })
}

/// The reply to a request, with its newline.
pub fn reply(id: &RequestId, result: &Result<Box<RawValue>, ErrorBody>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Document<'a> {
        jsonrpc: &'static str,
        id: &'a Json,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a ErrorBody>,
    }
    line(&Document {
        jsonrpc: "2.0",
        id: &id.0,
        result: result.as_ref().ok().map(AsRef::as_ref),
        error: result.as_ref().err(),
    })
}

/// An event of a streaming method, with its newline. `lost` events before it did not fit.
pub fn event(id: &RequestId, lost: u64, event: &RawValue) -> Vec<u8> {
    #[derive(Serialize)]
    struct Params<'a> {
        id: &'a Json,
        lost: u64,
        event: &'a RawValue,
    }
    #[derive(Serialize)]
    struct Document<'a> {
        jsonrpc: &'static str,
        method: &'static str,
        params: Params<'a>,
    }
    let params = Params { id: &id.0, lost, event };
    line(&Document { jsonrpc: "2.0", method: "event", params })
}

fn line<T: Serialize>(document: &T) -> Vec<u8> {
    let mut text = serde_json::to_vec(document).unwrap_or_else(|e| {
        tracing::error!("a reply could not be written as JSON: {e}");
        br#"{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"internal error"}}"#
            .to_vec()
    });
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(text: &str) -> (Json, i32, String) {
        let refused = parse(text.as_bytes()).expect_err(text);
        (refused.id.0, refused.body.code, refused.body.message)
    }

    #[test]
    fn a_request() {
        let text = br#"{"jsonrpc":"2.0","id":7,"method":"transact","params":{"commands":[]}}"#;
        let parsed = parse(text).expect("good");
        assert_eq!((parsed.id.0, parsed.method.as_str()), (json!(7), "transact"));
        assert_eq!(parsed.params, json!({"commands": []}));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let (id, code, message) = refused("{\"jsonrpc\":\"2.0\",\"id\":1,");
        assert_eq!((id, code), (Json::Null, code::PARSE));
        assert!(message.contains("line 1 column 24"), "{message}");
        assert_eq!(refused("[]").1, code::REQUEST);
        assert_eq!(refused("5").1, code::REQUEST);
        assert_eq!(refused(r#"{"jsonrpc":"2.0","method":"x"}"#).1, code::REQUEST);
        assert_eq!(refused(r#"{"jsonrpc":"1.0","id":3,"method":"x"}"#).0, json!(3));
        assert_eq!(refused(r#"{"jsonrpc":"2.0","id":[],"method":"x"}"#).1, code::REQUEST);
        assert_eq!(refused(r#"{"jsonrpc":"2.0","id":"a","method":5}"#).0, json!("a"));
        assert_eq!(
            refused(r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[1]}"#).1,
            code::PARAMS
        );
        assert!(refused(r#"{"jsonrpc":"2.0","id":1,"method":"x","parms":{}}"#).2.contains("parms"));
        assert!(parse(b"\xff\xfe").is_err());
    }

    #[test]
    fn deep_nesting_is_refused_not_followed() {
        let deep = "[".repeat(1_000_000);
        assert!(refused(&deep).2.contains("recursion limit"));
        let deep = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{}"#,
            "{\"a\":".repeat(500_000)
        );
        assert_eq!(refused(&deep).1, code::PARSE);
    }

    #[test]
    fn documents_are_one_line_each() {
        let id = RequestId(json!("a"));
        let raw = RawValue::from_string("{\"n\":1}".to_owned()).expect("raw");
        let text = String::from_utf8(event(&id, 2, &raw)).expect("text");
        assert_eq!(
            text,
            "{\"jsonrpc\":\"2.0\",\"method\":\"event\",\"params\":{\"id\":\"a\",\"lost\":2,\"event\":{\"n\":1}}}\n"
        );
        let text = reply(&id, &Ok(raw));
        assert_eq!(text, b"{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"result\":{\"n\":1}}\n");
        let error = CtlError::not_found("no bridge \"x\"").with_hint("h");
        let json: Json = serde_json::from_slice(&reply(&id, &Err(error.into()))).expect("json");
        assert_eq!(json["error"]["data"], json!({"kind": "not-found", "hint": "h"}));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            if let Err(refused) = parse(&bytes) {
                let text = reply(&refused.id, &Err(refused.body));
                proptest::prop_assert!(serde_json::from_slice::<Json>(&text).is_ok());
            }
        }
    }
}
