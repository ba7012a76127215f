//! The hash of subjects and tokens.
//!
//! Owns one function, built on folded 64-bit multiplication (the idea of wyhash). Never
//! cryptographic: the seed, secret and drawn once a process, is what keeps a client from choosing
//! subjects that collide.

const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;
const FINAL: u64 = 0xD6E8_FEB8_6659_FD93;

#[inline(always)]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Hashes `bytes` under `seed`, eight bytes at a time. Equal on every machine for equal arguments.
#[inline]
pub fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let length = bytes.len() as u64;
    let mut state = seed ^ FINAL ^ length;
    let (pairs, rest) = bytes.as_chunks::<16>();
    for pair in pairs {
        let (words, _) = pair.as_chunks::<8>();
        let (first, second) = (u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]));
        state = fold(first ^ MULTIPLIER ^ seed, second ^ state);
    }
    let (first, second) = tail(rest);
    fold(fold(first ^ MULTIPLIER ^ seed, second ^ state), FINAL ^ length)
}

/// The last 0 to 15 bytes as two words that together hold every byte.
#[inline(always)]
fn tail(rest: &[u8]) -> (u64, u64) {
    if let (Some(first), Some(last)) = (rest.first_chunk::<8>(), rest.last_chunk::<8>()) {
        (u64::from_le_bytes(*first), u64::from_le_bytes(*last))
    } else if let (Some(first), Some(last)) = (rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
        (u64::from(u32::from_le_bytes(*first)), u64::from(u32::from_le_bytes(*last)))
    } else if let (Some(first), Some(last)) = (rest.first(), rest.last()) {
        let middle = rest[rest.len() / 2];
        (u64::from(*first) | u64::from(middle) << 8 | u64::from(*last) << 16, 0)
    } else {
        (0, 0)
    }
}

/// Whether two texts are the same. For the short texts that subjects are, cheaper than a call of the system's
/// comparison, and much cheaper than musl's, which looks at one byte at a time.
#[inline(always)]
pub fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let (words, others) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    if words.iter().zip(others).any(|(word, other)| word != other) {
        return false;
    }
    match (a.last_chunk::<8>(), b.last_chunk::<8>()) {
        (Some(word), Some(other)) => word == other,
        _ => tail(a) == tail(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{collections::BTreeSet, format, vec::Vec};

    #[test]
    fn distinct_texts_of_every_length_have_distinct_hashes() {
        let mut seen = BTreeSet::new();
        let mut count = 0;
        for length in 0..70usize {
            for flip in 0..=length {
                let mut text: Vec<u8> = (0..length).map(|i| i as u8).collect();
                if let Some(byte) = text.get_mut(flip) {
                    *byte ^= 0x40;
                }
                seen.insert(hash(7, &text));
                count += 1;
            }
        }
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn both_ends_of_the_hash_are_spread() {
        // hashbrown picks the bucket by the low bits and the tag by the top seven.
        let (mut low, mut top) = ([0u32; 256], [0u32; 128]);
        for i in 0..100_000 {
            let value = hash(1, format!("orders.{i}.created").as_bytes());
            low[(value & 255) as usize] += 1;
            top[(value >> 57) as usize] += 1;
        }
        assert!(low.iter().all(|n| (290..500).contains(n)), "{low:?}");
        assert!(top.iter().all(|n| (640..930).contains(n)), "{top:?}");
    }

    #[test]
    fn texts_are_the_same_only_if_every_byte_is() {
        for length in 0..40usize {
            let text: Vec<u8> = (0..length).map(|i| i as u8).collect();
            assert!(same(&text, &text.clone()));
            assert!(!same(&text, &[&text[..], b"x"].concat()));
            for changed in 0..length {
                let mut other = text.clone();
                other[changed] ^= 0x10;
                assert!(!same(&text, &other), "{length} {changed}");
            }
        }
    }

    #[test]
    fn the_seed_changes_the_hash() {
        assert_ne!(hash(1, b"foo"), hash(2, b"foo"));
        assert_ne!(hash(1, b""), hash(2, b""));
        assert_ne!(hash(1, &[0; 16]), hash(2, &[0; 16]));
    }
}
