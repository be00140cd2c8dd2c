use super::*;
use proptest::prelude::*;

const RECORDED: &str = include_str!("../../tests/data/cpython-json.tsv");

/// Decodes and reads a document, and shows its value.
fn with<T>(document: &[u8], show: impl FnOnce(Result<Value<'_>, Error>) -> T) -> T {
    match decode(document) {
        Ok(Decoded::InPlace(characters)) => show(read(characters)),
        Ok(Decoded::Converted(converted)) => show(read(converted.characters())),
        Err(error) => show(Err(error)),
    }
}

/// Why a document is refused, or nothing.
fn error_of(document: &[u8]) -> Option<Error> {
    let mut refused = None;
    with(document, |value| refused = value.err());
    refused
}

/// What a document is written as. It has to be readable.
fn rewritten(document: &str) -> Result<String, Unwritable> {
    written(&read(document.into()).unwrap())
}

fn written(value: &Value<'_>) -> Result<String, Unwritable> {
    let mut out = String::new();
    value.write(&mut out).map(|()| out)
}

/// What became of a document, in the words of the recording.
fn outcome(document: &[u8]) -> String {
    with(document, |value| match value.map(|value| written(&value)) {
        Ok(Ok(text)) => format!("ok {}", hex(text.as_bytes())),
        Ok(Err(Unwritable)) => "unwritable".to_owned(),
        Err(Error::Syntax { message, position }) => format!("err {position} {message}"),
        Err(Error::Encoding | Error::TooDeep | Error::IntegerTooLong) => "unreadable".to_owned(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
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
        assert_eq!(error_of(document.as_bytes()), Some(Error::Syntax { message, position }), "{document}");
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
        assert_eq!(rewritten(number).as_deref(), Ok(expected), "{number}");
    }
}

#[test]
fn what_cannot_be_written_is_read_and_found_wherever_it_stands() {
    for leaf in ["NaN", "Infinity", "-Infinity", "1e400", "\"\\ud800\"", "\"a\\udc00b\"", "{\"\\ud800\":1}"] {
        for document in [leaf.to_owned(), format!("[1,{leaf}]"), format!("{{\"a\":[{{\"b\":{leaf}}}]}}")] {
            assert_eq!(rewritten(&document), Err(Unwritable), "{document}");
        }
        // A later value of the same key takes its place.
        let replaced = format!("{{\"a\":{leaf},\"a\":1}}");
        assert_eq!(rewritten(&replaced).as_deref(), Ok("{\"a\":1}"));
    }
}

#[test]
fn a_key_that_comes_twice_keeps_its_place_and_takes_its_last_value_at_any_size() {
    for more in [0, MEMBERS_COMPARED_MAX, 1000] {
        let filler = (0..more).map(|at| format!("\"k{at}\":{at},")).collect::<Vec<_>>().concat();
        let document = format!("{{\"a\":1,{filler}\"z\":2,\"\\u0061\":3}}");
        let expected = format!("{{\"a\":3,{filler}\"z\":2}}");
        assert_eq!(rewritten(&document), Ok(expected), "{more} more members");
    }
}

#[test]
fn integers_have_a_longest_length_and_floats_have_none() {
    let digits = "7".repeat(INTEGER_DIGITS_MAX);
    assert_eq!(rewritten(&digits), Ok(digits.clone()));
    assert_eq!(error_of(format!("-{digits}").as_bytes()), None);
    assert_eq!(error_of(format!("{digits}7").as_bytes()), Some(Error::IntegerTooLong));
    assert_eq!(error_of(format!("[-{digits}7]").as_bytes()), Some(Error::IntegerTooLong));
    assert_eq!(error_of(format!("0.{digits}7").as_bytes()), None);
}

#[test]
fn the_deepest_value_is_handled_on_a_small_stack_and_one_level_more_is_refused() {
    let small = std::thread::Builder::new().stack_size(1024 * 1024);
    let thread = small.spawn(|| {
        for (opening, closing) in [("[", "]"), ("{\"a\":", "}")] {
            let inner = if opening == "[" { "" } else { "0" };
            let deep = |levels: usize| format!("{}{inner}{}", opening.repeat(levels), closing.repeat(levels));
            let document = deep(DEPTH_MAX);
            let value = read(document.as_str().into()).unwrap();
            assert_eq!(written(&value), Ok(document.clone()));
            assert_eq!(read(document.as_str().into()), Ok(value));
            assert_eq!(error_of(deep(DEPTH_MAX + 1).as_bytes()), Some(Error::TooDeep));
        }
    });
    thread.unwrap().join().unwrap();
}

#[test]
fn hostile_bodies_of_eight_mebibytes_are_answered_at_once() {
    const SIZE: usize = 8 << 20;
    // Were one of these quadratic, the test would run for hours.
    assert_eq!(error_of(&b"[".repeat(SIZE)), Some(Error::TooDeep));
    assert_eq!(error_of(&b"{\"a\":".repeat(SIZE / 5)), Some(Error::TooDeep));
    let check = |document: Vec<u8>, position: usize, message: &'static str| {
        assert_eq!(error_of(&document), Some(Error::Syntax { message, position }));
    };
    check(b" ".repeat(SIZE), SIZE, "Expecting value");
    check(["\"", &"\\\"".repeat(SIZE / 2)].concat().into_bytes(), 0, "Unterminated string starting at");
    check(["\"", &"\\ud800".repeat(SIZE / 6)].concat().into_bytes(), SIZE / 6 * 6 - 4, "Invalid \\uXXXX escape");
    assert_eq!(rewritten(&["1.", &"9".repeat(SIZE)].concat()).as_deref(), Ok("2.0"));
    let surrogates = [b"\"".as_slice(), &b"\xed\xa0\x80".repeat(SIZE / 3), b"\""].concat();
    assert!(with(&surrogates, |value| value == Ok(Value::Text(Text::Surrogates))));
    let members: Vec<_> = (0..SIZE / 16).map(|at| format!("\"{at:07}\":{}", at % 10)).collect();
    let document = format!("{{{}}}", members.join(","));
    let Ok(Value::Object(object)) = read(document.as_str().into()) else { panic!("an object") };
    assert_eq!(object.members().len(), members.len());
}

#[test]
fn what_has_no_escape_is_borrowed_and_can_be_taken_once() {
    let Ok(Value::Object(mut object)) = read("{\"a\":\"é\",\"b\":12}".into()) else { panic!("an object") };
    assert!(matches!(object.get("b"), Some(Value::Number(Number::Integer(Cow::Borrowed("12"))))));
    assert!(matches!(object.take("a"), Some(Value::Text(Text::Unicode(Cow::Borrowed("é"))))));
    assert_eq!(object.take("a"), None);
    assert_eq!(object.members().len(), 1);
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

#[test]
fn a_decimal_keeps_its_text_only_where_python_prints_the_same() {
    let is_kept = |text: &str| matches!(read(text.into()), Ok(Value::Number(Number::Decimal(_))));
    for text in ["0.2", "-0.0", "0.0", "100.0", "0.0001", "-12.5", "0.100001", "12345678901234.5"] {
        assert!(is_kept(text), "{text}");
    }
    for text in ["0.20", "1.00", "0.00001", "0.00", "1e5", "1.5e0", "123456789012345.5", "0.1234567890123456", "7"] {
        assert!(!is_kept(text), "{text}");
    }
    assert_eq!(Number::Decimal("1.5"), Number::Float(1.5));
    assert_ne!(Number::Decimal("1.0"), Number::Integer(Cow::Borrowed("1")));
}

proptest! {
    #[test]
    fn a_decimal_that_keeps_its_text_is_what_its_double_prints(text in "-?(0|[1-9][0-9]{0,14})\\.(0{0,5}[0-9]{1,14})") {
        if let Ok(Value::Number(Number::Decimal(kept))) = read(text.as_str().into()) {
            let double = kept.parse().unwrap();
            prop_assert_eq!(rewritten(&text), written(&Value::Number(Number::Float(double))));
        }
    }

    #[test]
    fn what_is_written_reads_back_as_itself(document in documents()) {
        let value = read(document.as_str().into()).unwrap();
        if let Ok(text) = written(&value) {
            prop_assert_eq!(read(text.as_str().into()).unwrap(), value);
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        }
    }

    #[test]
    fn every_encoding_of_a_text_gives_the_same(document in documents(), cut in any::<prop::sample::Index>()) {
        // Cut anywhere, so that errors and their positions are compared too.
        let characters: Vec<char> = document.chars().collect();
        let text: String = characters[..cut.index(characters.len() + 1)].iter().collect();
        let expected = outcome(text.as_bytes());
        prop_assert_eq!(outcome(&[b"\xEF\xBB\xBF", text.as_bytes()].concat()), expected.clone());
        let marked = format!("\u{FEFF}{text}");
        for order in [u16::to_le_bytes, u16::to_be_bytes] {
            let bytes: Vec<u8> = marked.encode_utf16().flat_map(order).collect();
            prop_assert_eq!(outcome(&bytes), expected.clone());
        }
        for order in [u32::to_le_bytes, u32::to_be_bytes] {
            let bytes: Vec<u8> = marked.chars().map(u32::from).flat_map(order).collect();
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
        if let Some(Error::Syntax { position, .. }) = error_of(&document) {
            prop_assert!(position <= document.len());
        }
    }
}
