use proptest::prelude::*;

use super::*;

fn accepts(text: &str) -> Result<()> {
    let mut scanner = Scanner::new(text, 128);
    scanner.skip()?;
    scanner.end()
}

#[test]
fn numbers_fit_numeric() {
    let (whole, fraction) = ("1".repeat(131_072), format!("0.{}", "1".repeat(16_383)));
    for fits in ["1e131071", "1e-16383", "1.5e-16382", "123.5E+131069", &whole, &fraction] {
        assert!(accepts(fits).is_ok(), "{fits:.20}");
    }
    let (whole, fraction) = (format!("{whole}1"), format!("{fraction}1"));
    let far = format!("[1e{}]", "9".repeat(40));
    for large in
        ["1e131072", "1e-16384", "1.5e-16383", "-123.5E+131070", &whole, &fraction, &far, "{\"a\":[1e-99999999999]}"]
    {
        assert!(matches!(accepts(large), Err(Error::TooLarge { .. })), "{large:.20}");
    }
}

#[test]
fn what_is_json() {
    for (text, ok) in [
        ("null", true),
        (" [1, 2.5e-3,\"\\u00e9\\ud83d\\ude00\", {\"a\": [] , \"b\": {}}]\n", true),
        ("-0", true),
        ("[[[[]]]]", true),
        ("{\"a\":1,\"a\":2}", true),
        ("", false),
        ("   ", false),
        ("[", false),
        ("[1", false),
        ("[1,]", false),
        ("[,1]", false),
        ("{\"a\"}", false),
        ("{\"a\":}", false),
        ("{\"a\":1,}", false),
        ("{a:1}", false),
        ("{1:1}", false),
        ("[1}", false),
        ("{\"a\":1]", false),
        ("01", false),
        ("-", false),
        ("+1", false),
        ("1.", false),
        (".5", false),
        ("1e", false),
        ("1e+", false),
        ("NaN", false),
        ("Infinity", false),
        ("nul", false),
        ("nullx", false),
        ("1 2", false),
        ("\"", false),
        ("\"\\", false),
        ("\"\\x\"", false),
        ("\"\\u12\"", false),
        ("\"\\u12g4\"", false),
        ("\"\\ud800\"", false),
        ("\"\\ud800\\u0041\"", false),
        ("\"\\udc00\"", false),
        ("\"\n\"", false),
        ("\"\\u0000\"", false),
        ("\"\\u0001\"", true),
    ] {
        assert_eq!(accepts(text).is_ok(), ok, "{text:?}: {:?}", accepts(text));
    }
}

#[test]
fn nul_and_depth_have_errors_of_their_own() {
    assert!(matches!(accepts("[\"a\\u0000\"]"), Err(Error::NulCharacter { .. })));
    assert!(matches!(accepts("{\"\\u0000\":1}"), Err(Error::NulCharacter { .. })));
    assert!(matches!(accepts("\"\0\""), Err(Error::NulCharacter { .. })));
    assert!(accepts(&format!("{}{}", "[".repeat(128), "]".repeat(128))).is_ok());
    assert!(matches!(accepts(&"[".repeat(100_000)), Err(Error::TooLarge { bytes: 129, limit: 128, .. })));
    assert!(matches!(accepts(&"{\"a\":".repeat(100_000)), Err(Error::TooLarge { .. })));
    let deep = format!("{}{}{}", "[{\"a\":".repeat(50_000), 1, "}]".repeat(50_000));
    assert!(Scanner::new(&deep, usize::MAX).skip().is_ok());
    let crossed = format!("{}{}{}", "[{\"a\":".repeat(50_000), 1, "]}".repeat(50_000));
    assert!(Scanner::new(&crossed, usize::MAX).skip().is_err());
}

proptest! {
    #[test]
    fn strings_round_trip(text in "[^\0]*") {
        let mut out = String::new();
        write_string(&mut out, &text).unwrap();
        prop_assert_eq!(Scanner::new(&out, 1).string().unwrap(), text.as_str());
        prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
    }

    #[test]
    fn agrees_with_serde_json(text in r#"[\[\]{},:"a1e.\- tnul\\u0]{0,12}"#) {
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        let ours = accepts(&text);
        // Ours also refuses NUL and half surrogates, which theirs passes over.
        prop_assert!(ours.is_ok() == theirs || (theirs && text.contains("\\u")), "{:?} {:?}", text, ours);
    }
}

proptest! {
    #[test]
    fn plain_bytes_end_where_the_first_other_one_is(
        bytes in proptest::collection::vec(prop_oneof![8 => any::<u8>(), 1 => Just(b'"'), 1 => Just(b'\\'), 4 => Just(b'!')], 0..40),
    ) {
        let end = bytes.iter().position(|&b| b == b'"' || b == b'\\' || b < 0x20);
        prop_assert_eq!(plain(&bytes), end.unwrap_or(bytes.len()));
    }

    #[test]
    fn plain_bytes_may_be_many(start in 0usize..30, len in 0usize..30, other in any::<u8>()) {
        let mut bytes = vec![b'a'; start + len + 1];
        bytes[start] = other;
        let ends = other == b'"' || other == b'\\' || other < 0x20;
        prop_assert_eq!(plain(&bytes), if ends { start } else { bytes.len() });
    }
}
