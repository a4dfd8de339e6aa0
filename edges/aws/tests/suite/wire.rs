//! CBOR as JSON, both ways, with a time told apart.

use aws_smithy_cbor::data::Type;
use aws_smithy_cbor::{Decoder, Encoder};
use serde_json::{Map, Value, json};

/// Reads a body. A time becomes its milliseconds since 1970.
pub(crate) fn read(body: &[u8]) -> Value {
    value(&mut Decoder::new(body))
}

fn value(decoder: &mut Decoder<'_>) -> Value {
    match decoder.datatype().unwrap() {
        Type::Map | Type::MapIndef => {
            let mut map = Map::new();
            let length = decoder.map().unwrap();
            while length.is_none_or(|length| (map.len() as u64) < length) && !ended(decoder) {
                let key = decoder.string().unwrap();
                map.insert(key, value(decoder));
            }
            Value::Object(map)
        }
        Type::Array | Type::ArrayIndef => {
            let mut list = Vec::new();
            let length = decoder.list().unwrap();
            while length.is_none_or(|length| (list.len() as u64) < length) && !ended(decoder) {
                list.push(value(decoder));
            }
            Value::Array(list)
        }
        Type::Tag => json!(decoder.timestamp().unwrap().to_millis().unwrap()),
        Type::String | Type::StringIndef => json!(decoder.string().unwrap()),
        Type::Bool => json!(decoder.boolean().unwrap()),
        Type::F16 | Type::F32 | Type::F64 => json!(decoder.double().unwrap()),
        _ => json!(decoder.long().unwrap()),
    }
}

fn ended(decoder: &mut Decoder<'_>) -> bool {
    let ended = decoder.datatype().is_ok_and(|datatype| datatype == Type::Break);
    if ended {
        decoder.skip().unwrap();
    }
    ended
}

/// Writes a body. What stands below `Timestamps`, or a key that ends with `Timestamp`, is milliseconds since 1970; numbers
/// below `Values` are floating.
pub(crate) fn write(json: &Value) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    put(&mut encoder, "", json);
    encoder.into_writer()
}

fn put(encoder: &mut Encoder, key: &str, json: &Value) {
    match json {
        Value::Object(map) => {
            encoder.map(map.len());
            for (key, value) in map {
                encoder.str(key);
                put(encoder, key, value);
            }
        }
        Value::Array(list) => {
            encoder.array(list.len());
            list.iter().for_each(|value| put(encoder, key, value));
        }
        Value::String(text) => {
            encoder.str(text);
        }
        Value::Bool(truth) => {
            encoder.boolean(*truth);
        }
        Value::Number(number) if key == "Timestamps" || key.ends_with("Timestamp") => {
            let at = aws_sdk_cloudwatch::primitives::DateTime::from_millis(number.as_i64().unwrap());
            encoder.timestamp(&at);
        }
        Value::Number(number) if key == "Values" => {
            encoder.double(number.as_f64().unwrap());
        }
        Value::Number(number) => {
            encoder.long(number.as_i64().unwrap());
        }
        Value::Null => {
            encoder.null();
        }
    }
}
