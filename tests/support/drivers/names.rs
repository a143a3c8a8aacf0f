//! Names on etcd: decoding returns the key, and different keys have different names.

use leasehold::testing::EtcdNames;

/// Uses the bytes as two keys and a child, and as a foreign name.
pub fn key_codec(data: &[u8]) {
    let mut parts = data.splitn(3, |&byte| byte == b'\n').map(String::from_utf8_lossy);
    let [first, second, child] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    for names in ["", "leasehold/", "%"].map(EtcdNames::new) {
        keys(&names, &first, &second, &child);
        // A name is decoded only if its key encodes to it.
        if let Some((key, child)) = names.decode(data) {
            let (start, end) = names.directory(&key);
            assert!(start.as_slice() <= data && data < end.as_slice());
            assert_eq!([start, child].concat(), data);
        }
    }
}

fn keys(names: &EtcdNames, first: &str, second: &str, child: &str) {
    let (start, end) = names.directory(first);
    let (other_start, other_end) = names.directory(second);
    if first != second {
        assert!(end <= other_start || other_end <= start, "{first:?} and {second:?} overlap");
    }
    let session = names.directory("").0;
    if !first.is_empty() {
        let name = [&start, child.as_bytes()].concat();
        assert_eq!(names.decode(&name), Some((first.to_owned(), child.as_bytes().to_owned())));
        assert!(start <= name && name < end);
        // Records that are not locks are below `%session/`.
        let record = [&session[..session.len() - 1], b"%session/"].concat();
        assert!(!start.starts_with(&record) && names.decode(&record).is_none());
    }
    let (from, to) = names.range(second);
    let listed = from <= start && (to == [0] || start < to);
    assert_eq!(listed, first.starts_with(second), "{first:?} under {second:?}");
}
