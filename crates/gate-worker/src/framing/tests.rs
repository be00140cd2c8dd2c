use proptest::prelude::*;

use super::*;

const CAPS: Caps = Caps { head: 1024, fields: 8, target: 256 };

/// Feeds `bytes` in pieces of `step`; the lengths of the messages, or the refusal.
fn messages(bytes: &[u8], step: usize) -> Result<Vec<usize>, Rejection> {
    let mut framer = Framer::new(CAPS);
    let (mut released, mut message, mut lengths) = (0, 0, Vec::new());
    for end in (0..=bytes.len()).step_by(step).chain([bytes.len()]) {
        loop {
            match framer.judge(&bytes[released..end]) {
                Verdict::Release(count) => {
                    released += count;
                    message += count;
                    if framer.between_messages() {
                        lengths.push(message);
                        message = 0;
                    }
                }
                Verdict::More => break,
                Verdict::Refuse(refused) => return Err(refused),
            }
        }
    }
    Ok(lengths)
}

fn reason(bytes: &[u8]) -> &'static str {
    match messages(bytes, bytes.len()) {
        Err(Rejection::MalformedHead { reason }) => reason,
        other => panic!("{:?}: {other:?}", String::from_utf8_lossy(bytes)),
    }
}

const GET: &[u8] = b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
const CHUNKED: &[u8] =
    b"POST / HTTP/1.1\r\nhost:x\r\ntransfer-encoding: Chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-T: v\r\n\r\n";

#[test]
fn pipelined_messages_are_told_apart() {
    let all = [GET, POST, CHUNKED, b"\r\n", GET].concat();
    let lengths = [GET.len(), POST.len(), CHUNKED.len(), GET.len() + 2];
    assert_eq!(messages(&all, all.len()).unwrap(), lengths);
}

#[test]
fn a_head_brings_what_has_come_of_its_body_and_no_more() {
    let whole = [POST, GET].concat();
    for (come, released) in [(whole.len(), POST.len()), (POST.len(), POST.len()), (POST.len() - 2, POST.len() - 2)] {
        let mut framer = Framer::new(CAPS);
        assert_eq!(framer.judge(&whole[..come]), Verdict::Release(released));
        assert_eq!(framer.between_messages(), released == POST.len());
        if released < POST.len() {
            assert_eq!(framer.judge(&whole[released..]), Verdict::Release(POST.len() - released));
        }
    }
}

#[test]
fn the_digits_of_a_length_are_found_where_they_stand() {
    for (field, digits) in [
        ("Content-Length: 5\r\nA: 7", "5"),
        ("content-length:005 \t", "005"),
        ("A: 12\r\nCONTENT-LENGTH: \t5\r\nB: 9", "5"),
        ("A: 12", ""),
    ] {
        let head = format!("\r\nPOST /1 HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n");
        let mut framer = Framer::new(CAPS);
        assert_eq!(framer.judge(head.as_bytes()), Verdict::Release(head.len()));
        assert_eq!((framer.heads(), framer.head_length()), (1, head.len()));
        assert_eq!(&head[framer.length_digits()], digits, "{field:?}");
        assert!(digits.is_empty() || head[..framer.length_digits().start].to_lowercase().contains("content-length:"));
    }
}

#[test]
fn heads_that_two_parsers_could_read_differently_are_refused() {
    let cases: &[(&str, &str)] = &[
        ("hello\r\n\r\n", "METHOD TARGET VERSION"),
        ("GET /x\r\n\r\n", "METHOD TARGET VERSION"),
        ("GET  /x HTTP/1.1\r\n\r\n", "METHOD TARGET VERSION"),
        ("get / HTTP/1.1\r\nHost: x\r\n\r\n", "word in capitals"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT"),
        ("GET x HTTP/1.1\r\nHost: x\r\n\r\n", "request target"),
        ("GET /\u{e9} HTTP/1.1\r\nHost: x\r\n\r\n", "request target"),
        ("GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", "request target"),
        ("GET /a?\"b HTTP/1.1\r\nHost: x\r\n\r\n", "request target"),
        ("GET http:// HTTP/1.1\r\nHost: x\r\n\r\n", "request target"),
        ("GET http:///x HTTP/1.1\r\nHost: x\r\n\r\n", "request target"),
        ("GET http://a\\/ HTTP/1.1\r\nHost: x\r\n\r\n", "request target"),
        ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", "version"),
        ("GET / HTTP/1.1\r\n\r\n", "no Host"),
        ("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", "two Host"),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "host and port"),
        ("GET / HTTP/1.1\nHost: x\n\n", "CR LF"),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: b\n\r\n", "CR LF"),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", "folded"),
        ("GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", "not a token"),
        ("GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n", "not a token"),
        ("GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n", "without a colon"),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n", "control character"),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: \u{7f}\r\n\r\n", "control character"),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", "control character"),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: b\r\r\n\r\n", "control character"),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: \u{c}b\r\n\r\n", "control character"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", "two Content-Length"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n", "not a number"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\n", "not a number"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", "not a number"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "both"),
        ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "other than chunked"),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "other than",
        ),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.0"),
    ];
    for (head, wanted) in cases {
        let said = reason(head.as_bytes());
        assert!(said.contains(wanted), "{head:?}: {said}");
    }
}

#[test]
fn chunked_bodies_that_are_off_by_a_byte_are_refused() {
    let head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases: &[(&str, &str)] = &[
        ("zz\r\n", "hexadecimal"),
        ("\r\n", "hexadecimal"),
        ("0x5\r\n", "hexadecimal"),
        (" 5\r\nhello\r\n0\r\n\r\n", "hexadecimal"),
        ("5\nhello\r\n0\r\n\r\n", "CR LF"),
        ("5;a\nb\r\nhello\r\n", "CR LF"),
        ("4\r\nhello\r\n", "longer than it said"),
        ("5\r\nhello\n0\r\n\r\n", "longer than it said"),
        ("0\r\nContent-Length: 4\r\n\r\n", "belongs into the head"),
        ("0\r\nno colon\r\n\r\n", "without a colon"),
        ("fffffffffffffffff\r\n", "hexadecimal"),
    ];
    for (body, wanted) in cases {
        let said = reason([head, body].concat().as_bytes());
        assert!(said.contains(wanted), "{body:?}: {said}");
    }
    let full = format!("{head}0\r\nx: {}\r\ny: z\r\n\r\n", "a".repeat(8189));
    assert!(reason(full.as_bytes()).contains("too long"), "a line that fills the trailers leaves no room");
    let long = format!("{head}5;{}\r\n", "a".repeat(100));
    assert!(reason(long.as_bytes()).contains("too long"));
}

#[test]
fn caps_name_themselves() {
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(8));
    assert_eq!(messages(many.as_bytes(), many.len()), Err(Rejection::TooManyFields { limit: 8 }));
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "b".repeat(1024));
    assert_eq!(messages(long.as_bytes(), 100), Err(Rejection::HeadTooLarge { limit: 1024 }));
    for tail in [" HTTP/1.1\r\nHost: x\r\n\r\n", ""] {
        let path = format!("GET /{}{tail}", "a".repeat(2000));
        assert_eq!(messages(path.as_bytes(), 100), Err(Rejection::TargetTooLong { limit: 256 }), "{tail:?}");
    }
}

#[test]
fn http_1_0_needs_no_host() {
    assert_eq!(messages(b"GET / HTTP/1.0\r\n\r\n", 1).unwrap(), [18]);
}

proptest! {
    #[test]
    fn any_cut_gives_the_same_messages(step in 1usize..40) {
        let all = [GET, CHUNKED, POST, GET].concat();
        prop_assert_eq!(messages(&all, step).unwrap(), messages(&all, all.len()).unwrap());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), step in 1usize..50) {
        drop(messages(&bytes, step));
        drop(messages(&[b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", &bytes[..]].concat(), step));
    }
}
