//! Pieces of a body made one, up to a cap. A body that comes in one piece, as most do, is not copied.

use bytes::{Bytes, BytesMut};

/// What has come so far.
#[derive(Debug, Default)]
pub struct Gather {
    first: Bytes,
    rest: BytesMut,
}

/// The pieces are over the cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverCap;

impl Gather {
    /// Adds a piece.
    ///
    /// # Errors
    /// [`OverCap`] when all pieces together are over `max` bytes.
    pub fn add(&mut self, piece: Bytes, max: usize) -> Result<(), OverCap> {
        if self.first.len() + self.rest.len() + piece.len() > max {
            return Err(OverCap);
        }
        if self.first.is_empty() {
            self.first = piece;
        } else {
            self.rest.extend_from_slice(&piece);
        }
        Ok(())
    }

    /// All of it.
    pub fn whole(self) -> Bytes {
        if self.rest.is_empty() {
            return self.first;
        }
        let mut whole = BytesMut::with_capacity(self.first.len() + self.rest.len());
        whole.extend_from_slice(&self.first);
        whole.extend_from_slice(&self.rest);
        whole.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_in_their_order_and_no_byte_too_many() {
        let mut gather = Gather::default();
        for piece in ["", "ab", "", "c", "de"] {
            gather.add(piece.into(), 5).unwrap();
        }
        assert_eq!(gather.add("f".into(), 5), Err(OverCap));
        assert_eq!(gather.whole(), "abcde");
        assert_eq!(Gather::default().whole(), "");
    }

    #[test]
    fn a_single_piece_is_handed_on_as_it_is() {
        let piece = Bytes::from_static(b"one");
        let mut gather = Gather::default();
        gather.add(piece.clone(), 3).unwrap();
        assert_eq!(gather.whole().as_ptr(), piece.as_ptr());
    }
}
