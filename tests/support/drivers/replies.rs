//! Data from a Redis server, or from any client that writes or publishes there: parsed without a panic, and never into a token out of
//! range.

use leasehold::testing::RedisAnswers;

/// The range of epochs.
const EPOCHS: std::ops::Range<u64> = 1..1 << 53;

/// Uses the bytes as a value, as a message, as a reply, and as the texts in otherwise valid replies.
pub fn redis_answers(data: &[u8]) {
    let answers = RedisAnswers::new("lock:");
    if let Some((_, Some(epoch))) = answers.read_message(data) {
        assert!(EPOCHS.contains(&epoch), "{epoch}");
    }
    let _ = answers.read_value(data);
    let texts: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let bulk = |text: &[u8]| [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat();
    let array = |count: usize, items: &[u8]| [format!("*{count}\r\n").as_bytes(), items].concat();
    let bulks: Vec<u8> = texts.iter().flat_map(|text| bulk(text)).collect();
    let acquires = array(1 + texts.len(), &[bulk(b"7"), bulks.clone()].concat());
    for reply in [data, &acquires] {
        for epoch in answers.read_acquires(reply, 7, texts.len()) {
            assert!(EPOCHS.contains(&epoch), "{epoch}");
        }
    }
    let page = array(2, &[bulk(b"0"), array(texts.len(), &bulks)].concat());
    for reply in [data, &page] {
        for key in answers.read_page(reply).into_iter().flatten() {
            assert!(!key.is_empty());
        }
    }
    // Type, value, PTTL, fence and waiters; then claims and tokens.
    let fence = texts.first().copied().unwrap_or_default();
    let value = texts.get(1).copied().unwrap_or_default();
    let head = [bulk(b"string"), bulk(value), b":-1\r\n".to_vec(), bulk(fence), b":0\r\n".to_vec()].concat();
    let info = array(5 + texts.len(), &[head, bulks].concat());
    for reply in [data, &info] {
        if let Some(token) = answers.read_info(reply, "k").and_then(|info| info.token) {
            assert!(EPOCHS.contains(&(token.get() >> 10)), "{token}");
        }
    }
}
