use super::*;
use proptest::prelude::*;

const RECORDED: &str = include_str!("../../tests/data/cpython-json.tsv");

fn written(value: &Value<'_>) -> Result<String, Unwritable> {
    let mut out = String::new();
    value.write(&mut out).map(|()| out)
}

/// What became of a document, in the words of the recording.
fn outcome(document: &[u8]) -> String {
    match read(document) {
        Ok(value) => match written(&value) {
            Ok(text) => format!("ok {}", hex(text.as_bytes())),
            Err(Unwritable) => "unwritable".to_owned(),
        },
        Err(Error::Syntax { message, position }) => format!("err {position} {message}"),
        Err(Error::Encoding | Error::TooDeep | Error::IntegerTooLong) => "unreadable".to_owned(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().as_chunks::<2>().0;
    pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn every_recorded_document_gives_what_cpython_gave() {
    let mut count = 0;
    for line in RECORDED.lines().filter(|line| !line.starts_with('#')) {
        let (document, expected) = line.split_once('\t').unwrap();
        let document = unhex(document);
        assert_eq!(outcome(&document), expected, "{:?}", String::from_utf8_lossy(&document));
        count += 1;
    }
    assert!(count > 500, "{count} cases");
}

#[test]
fn errors_name_cpythons_message_and_character() {
    let check = |document: &str, position: usize, message: &'static str| {
        assert_eq!(read(document.as_bytes()), Err(Error::Syntax { message, position }), "{document}");
    };
    check("not json", 0, "Expecting value");
    check("   ", 3, "Expecting value");
    check("[\"hi\",]", 6, "Expecting value");
    check("{\"a\":nan}", 5, "Expecting value");
    check("{a:1}", 1, "Expecting property name enclosed in double quotes");
    check("{\"a\":1,}", 7, "Expecting property name enclosed in double quotes");
    check("{\"a\" 1}", 5, "Expecting ':' delimiter");
    check("{\"é🚀\" x}", 6, "Expecting ':' delimiter");
    check("{\"a\":1 \"b\":2}", 7, "Expecting ',' delimiter");
    check("[1", 2, "Expecting ',' delimiter");
    check("{}{}", 2, "Extra data");
    check("01", 1, "Extra data");
    check("[\"hi", 1, "Unterminated string starting at");
    check("\"a\nb\"", 2, "Invalid control character at");
    check("\"a\\qb\"", 2, "Invalid \\escape");
    check("{\"prompt\":\"\\u12g4\"}", 12, "Invalid \\uXXXX escape");
}

#[test]
fn numbers_are_written_as_python_prints_them() {
    for (number, expected) in [
        ("0", "0"),
        ("-0", "0"),
        ("-0.0", "-0.0"),
        ("1.0", "1.0"),
        ("1.50", "1.5"),
        ("1e5", "100000.0"),
        ("1E+5", "100000.0"),
        ("1e15", "1000000000000000.0"),
        ("1e16", "1e+16"),
        ("1e22", "1e+22"),
        ("1.5e300", "1.5e+300"),
        ("0.0001", "0.0001"),
        ("0.00001", "1e-05"),
        ("123e-9", "1.23e-07"),
        ("906358416752328.25", "906358416752328.2"),
        ("18446744073709551615", "18446744073709551615"),
        ("100000000000000000000000000000", "100000000000000000000000000000"),
    ] {
        assert_eq!(written(&read(number.as_bytes()).unwrap()).as_deref(), Ok(expected), "{number}");
    }
}

#[test]
fn what_cannot_be_written_is_read_and_found_wherever_it_stands() {
    for leaf in ["NaN", "Infinity", "-Infinity", "1e400", "\"\\ud800\"", "\"a\\udc00b\"", "{\"\\ud800\":1}"] {
        for document in [leaf.to_owned(), format!("[1,{leaf}]"), format!("{{\"a\":[{{\"b\":{leaf}}}]}}")] {
            assert_eq!(written(&read(document.as_bytes()).unwrap()), Err(Unwritable), "{document}");
        }
        // A later value of the same key takes its place.
        let replaced = format!("{{\"a\":{leaf},\"a\":1}}");
        assert_eq!(written(&read(replaced.as_bytes()).unwrap()).as_deref(), Ok("{\"a\":1}"));
    }
}

#[test]
fn a_key_that_comes_twice_keeps_its_place_and_takes_its_last_value_at_any_size() {
    for more in [0, MEMBERS_COMPARED_MAX, 1000] {
        let filler: String = (0..more).map(|at| format!("\"k{at}\":{at},")).collect();
        let document = format!("{{\"a\":1,{filler}\"z\":2,\"\\u0061\":3}}");
        let expected = format!("{{\"a\":3,{filler}\"z\":2}}");
        assert_eq!(written(&read(document.as_bytes()).unwrap()), Ok(expected), "{more} more members");
    }
}

#[test]
fn integers_have_a_longest_length_and_floats_have_none() {
    let digits = "7".repeat(INTEGER_DIGITS_MAX);
    assert_eq!(written(&read(digits.as_bytes()).unwrap()), Ok(digits.clone()));
    assert!(read(format!("-{digits}").as_bytes()).is_ok());
    assert_eq!(read(format!("{digits}7").as_bytes()), Err(Error::IntegerTooLong));
    assert_eq!(read(format!("[-{digits}7]").as_bytes()), Err(Error::IntegerTooLong));
    assert!(read(format!("0.{digits}7").as_bytes()).is_ok());
}

#[test]
fn the_deepest_value_is_handled_on_a_small_stack_and_one_level_more_is_refused() {
    let small = std::thread::Builder::new().stack_size(2048 * 1024);
    let thread = small.spawn(|| {
        for (opening, closing) in [("[", "]"), ("{\"a\":", "}")] {
            let inner = if opening == "[" { "" } else { "0" };
            let deep =
                |levels: usize| format!("{}{inner}{}", opening.repeat(levels), closing.repeat(levels)).into_bytes();
            let document = deep(DEPTH_MAX);
            let value = read(&document).unwrap();
            assert_eq!(written(&value).unwrap().as_bytes(), document);
            assert_eq!(value.clone().into_owned(), value);
            assert_eq!(read(&deep(DEPTH_MAX + 1)), Err(Error::TooDeep));
        }
    });
    thread.unwrap().join().unwrap();
}

#[test]
fn hostile_bodies_of_eight_mebibytes_are_answered_at_once() {
    const SIZE: usize = 8 << 20;
    // Were one of these quadratic, the test would run for hours.
    assert_eq!(read(&b"[".repeat(SIZE)), Err(Error::TooDeep));
    assert_eq!(read(&b"{\"a\":".repeat(SIZE / 5)), Err(Error::TooDeep));
    let check = |document: Vec<u8>, position: usize, message: &'static str| {
        assert_eq!(read(&document), Err(Error::Syntax { message, position }));
    };
    check(b" ".repeat(SIZE), SIZE, "Expecting value");
    check(["\"", &"\\\"".repeat(SIZE / 2)].concat().into_bytes(), 0, "Unterminated string starting at");
    check(["\"", &"\\ud800".repeat(SIZE / 6)].concat().into_bytes(), SIZE / 6 * 6 - 4, "Invalid \\uXXXX escape");
    assert_eq!(read(&[b"1.".as_slice(), &b"9".repeat(SIZE)].concat()), Ok(Value::Number(Number::Float(2.0))));
    let surrogates = [b"\"".as_slice(), &b"\xed\xa0\x80".repeat(SIZE / 3), b"\""].concat();
    assert_eq!(read(&surrogates), Ok(Value::Text(Text::Surrogates)));
    let members: Vec<_> = (0..SIZE / 16).map(|at| format!("\"{at:07}\":{}", at % 10)).collect();
    let Ok(Value::Object(object)) = read(format!("{{{}}}", members.join(",")).as_bytes()).map(Value::into_owned)
    else {
        panic!("an object");
    };
    assert_eq!(object.members().len(), members.len());
}

#[test]
fn an_escape_free_document_is_borrowed_and_a_converted_one_is_not() {
    let document = "{\"a\":\"é\",\"b\":12}".as_bytes();
    let Ok(Value::Object(object)) = read(document) else { panic!("an object") };
    assert!(matches!(object.get("a"), Some(Value::Text(Text::Unicode(Cow::Borrowed("é"))))));
    assert!(matches!(object.get("b"), Some(Value::Number(Number::Integer(Cow::Borrowed("12"))))));
    let utf16: Vec<u8> = "{\"a\":\"é\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let Ok(Value::Object(mut object)) = read(&utf16) else { panic!("an object") };
    assert_eq!(object.take("a"), Some(Value::Text(Text::Unicode("é".into()))));
    assert_eq!(object.take("a"), None);
}

/// JSON texts of any shape, and texts that are nearly JSON.
fn documents() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "null|true|false|NaN|-?Infinity",
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
        "\"([^\"\\\\\\x00-\\x1f]|\\\\[\"\\\\/bfnrt]|\\\\u[0-9a-fA-F]{4}){0,8}\"",
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|items| format!("[{}]", items.join(" , "))),
            prop::collection::vec(("\"[a-c]?\"", inner), 0..6).prop_map(|members| {
                let members: Vec<_> = members.iter().map(|(key, value)| format!("{key}: {value}")).collect();
                format!("{{\n{}\t}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back_as_itself(document in documents()) {
        let value = read(document.as_bytes()).unwrap();
        if let Ok(text) = written(&value) {
            prop_assert_eq!(read(text.as_bytes()).unwrap(), value.clone());
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        }
    }

    #[test]
    fn every_encoding_of_a_text_gives_the_same(document in documents(), cut in any::<prop::sample::Index>()) {
        // Cut anywhere, so that errors and their positions are compared too. From the third character on, so that the
        // width can be told without a mark.
        let characters: Vec<char> = document.chars().collect();
        let text: String = characters[..cut.index(characters.len() + 1)].iter().collect();
        let expected = outcome(text.as_bytes());
        prop_assert_eq!(outcome(&[b"\xEF\xBB\xBF", text.as_bytes()].concat()), expected.clone());
        let utf16: Vec<u16> = std::iter::once('\u{FEFF}').chain(text.chars()).collect::<String>().encode_utf16().collect();
        for order in [u16::to_le_bytes, u16::to_be_bytes] {
            let bytes: Vec<u8> = utf16.iter().copied().flat_map(order).collect();
            prop_assert_eq!(outcome(&bytes), expected.clone());
        }
        for order in [u32::to_le_bytes, u32::to_be_bytes] {
            let bytes: Vec<u8> = std::iter::once('\u{FEFF}').chain(text.chars()).map(u32::from).flat_map(order).collect();
            prop_assert_eq!(outcome(&bytes), expected.clone());
        }
    }

    #[test]
    fn any_bytes_are_answered_and_a_position_lies_in_the_document(
        document in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            "[\\[\\]{}\",:\\\\u0-9a-f\\-.eE \u{e9}\u{1f680}]{0,60}".prop_map(String::into_bytes),
        ]
    ) {
        match read(&document) {
            Err(Error::Syntax { position, .. }) => prop_assert!(position <= document.len()),
            Err(_) => {}
            Ok(value) => prop_assert_eq!(value.clone().into_owned() == value, !holds_nan(&value)),
        }
    }
}

fn holds_nan(value: &Value<'_>) -> bool {
    match value {
        Value::Number(Number::Float(double)) => double.is_nan(),
        Value::Array(items) => items.iter().any(holds_nan),
        Value::Object(object) => object.members().iter().any(|(_, value)| holds_nan(value)),
        Value::Null | Value::Bool(_) | Value::Number(Number::Integer(_)) | Value::Text(_) => false,
    }
}
