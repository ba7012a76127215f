//! Public NKeys, as far as a configuration must tell a good one from a typing mistake: base32, checksum and
//! kind. Owns no cryptography.

/// What a public key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// `O…`
    Operator,
    /// `A…`
    Account,
    /// `U…`
    User,
    /// `N…`
    Server,
    /// `C…`
    Cluster,
    /// `X…`, for encryption.
    Curve,
}

/// The kind of a well-formed public key: 35 bytes in base32 (one for the kind, 32 for the key, two for a
/// CRC-16 of what is before them), as the nkeys libraries write it. `None` for anything else.
pub fn public_key_kind(text: &str) -> Option<KeyKind> {
    let bytes = base32(text)?;
    let (body, checksum) = bytes.split_last_chunk::<2>()?;
    if body.len() != 33 || crc16(body) != u16::from_le_bytes(*checksum) {
        return None;
    }
    match body.first()? >> 3 {
        14 => Some(KeyKind::Operator),
        0 => Some(KeyKind::Account),
        20 => Some(KeyKind::User),
        13 => Some(KeyKind::Server),
        2 => Some(KeyKind::Cluster),
        23 => Some(KeyKind::Curve),
        _ => None,
    }
}

/// RFC 4648 without padding.
fn base32(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'2'..=b'7' => letter - b'2' + 26,
            _ => return None,
        };
        bits = (bits << 5 | u32::from(value)) & 0xfff;
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    Some(bytes)
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(
            crc ^ u16::from(*byte) << 8,
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_nats_documentation_are_told_apart() {
        let user = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
        assert_eq!(public_key_kind(user), Some(KeyKind::User));
        let mistyped = user.replace("CNF4", "CNF5");
        assert_eq!(public_key_kind(&mistyped), None);
        assert_eq!(public_key_kind(""), None);
        assert_eq!(public_key_kind("SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"), None);
    }
}
