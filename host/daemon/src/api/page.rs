//! Pages of lists.
//!
//! A token is the sort key of the last item sent, in hexadecimal, with a digest of the request's
//! filters before it, so that a token of another request is refused instead of giving nonsense.

use prost::Message;

use crate::api::failure::{Failure, Result};
use crate::limits::{PAGE_BYTES_MAX, PAGE_DEFAULT, PAGE_MAX};

/// One page that is being made.
pub(crate) struct Page {
    size: usize,
    filters: String,
    after: Option<Vec<u8>>,
}

impl Page {
    /// Reads what a request asks for. `filters` is everything else of the request.
    ///
    /// # Errors
    /// When the token is not one of this request.
    pub(crate) fn new(size: u32, token: &str, filters: &[&[u8]]) -> Result<Self> {
        let mut hasher = blake3::Hasher::new();
        for filter in filters {
            hasher.update(&(filter.len() as u64).to_be_bytes());
            hasher.update(filter);
        }
        let filters = hex::encode(&hasher.finalize().as_bytes()[..6]);
        let after = match token {
            "" => None,
            token => Some(
                token
                    .strip_prefix(&filters)
                    .and_then(|key| hex::decode(key).ok())
                    .ok_or_else(|| {
                        Failure::usage("the page token does not belong to this request")
                            .hint("start again without one")
                    })?,
            ),
        };
        let size = match size {
            0 => PAGE_DEFAULT,
            size => size.min(PAGE_MAX),
        };
        Ok(Self {
            size: size as usize,
            filters,
            after,
        })
    }

    /// How many items it holds.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The sort key of the last item of the page before.
    pub(crate) fn after(&self) -> Option<&[u8]> {
        self.after.as_deref()
    }

    /// The token for the page after an item with this sort key.
    pub(crate) fn token(&self, key: &[u8]) -> String {
        format!("{}{}", self.filters, hex::encode(key))
    }

    /// Cuts the page out of all items; they need no order.
    pub(crate) fn cut<T: Message>(&self, items: Vec<(Vec<u8>, T)>) -> (Vec<T>, String) {
        self.cut_by(items, item_bytes)
    }

    /// Likewise out of items of which so many, [`PAGE_MAX`], never fill a message.
    pub(crate) fn cut_small<T>(&self, items: Vec<(Vec<u8>, T)>) -> (Vec<T>, String) {
        self.cut_by(items, |_| 0)
    }

    fn cut_by<T>(
        &self,
        mut items: Vec<(Vec<u8>, T)>,
        bytes_of: impl Fn(&T) -> usize,
    ) -> (Vec<T>, String) {
        items.sort_by(|a, b| a.0.cmp(&b.0));
        let from = match &self.after {
            Some(after) => items.partition_point(|(key, _)| key <= after),
            None => 0,
        };
        let mut bytes = 0;
        let fit = items[from..]
            .iter()
            .take(self.size)
            .take_while(|(_, item)| {
                bytes += bytes_of(item);
                bytes <= PAGE_BYTES_MAX
            });
        // One item is given however large it is: who makes such items shortens them.
        let count = fit.count().max(1).min(items.len() - from);
        let token = match items.len() > from + count {
            true => self.token(&items[from + count - 1].0),
            false => String::new(),
        };
        let page = items.into_iter().skip(from).take(count);
        (page.map(|(_, item)| item).collect(), token)
    }
}

/// What an item adds to the message of its page.
pub(crate) fn item_bytes(item: &impl Message) -> usize {
    // Its tag and its length come before it.
    item.encoded_len() + 6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_and_end() {
        let items = || (0u8..5).rev().map(|i| (vec![i], u32::from(i))).collect();
        let mut token = String::new();
        let mut seen = Vec::new();
        loop {
            let page = Page::new(2, &token, &[b"x"]).unwrap();
            let (some, next) = page.cut(items());
            seen.extend(some);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_page_has_a_usual_and_a_largest_size() {
        let size = |asked| Page::new(asked, "", &[]).unwrap().size();
        assert_eq!(size(0), PAGE_DEFAULT as usize);
        assert_eq!(size(PAGE_MAX), PAGE_MAX as usize);
        assert_eq!(size(PAGE_MAX + 1), PAGE_MAX as usize);
    }

    #[test]
    fn a_page_ends_at_its_bytes() {
        let page = Page::new(0, "", &[]).unwrap();
        let item = |n: u8, len: usize| (vec![n], "x".repeat(len));
        let head = item_bytes(&item(0, 1 << 20).1) - (1 << 20);
        let half = PAGE_BYTES_MAX / 2 - head;
        let (items, token) = page.cut(vec![item(0, half), item(1, half)]);
        assert_eq!((items.len(), token), (2, String::new()));
        let (items, token) = page.cut(vec![item(0, half), item(1, half + 1)]);
        assert_eq!((items.len(), token), (1, page.token(&[0])));
        let next = Page::new(0, &page.token(&[0]), &[]).unwrap();
        let (items, token) = next.cut(vec![item(0, half), item(1, 2 * half + 99)]);
        assert_eq!((items.len(), token), (1, String::new()), "one is given");
        let nothing: Vec<(Vec<u8>, String)> = Vec::new();
        assert_eq!(page.cut(nothing), (Vec::new(), String::new()));
    }

    #[test]
    fn a_token_of_another_request_is_refused() {
        let token = Page::new(2, "", &[b"x"]).unwrap().token(b"k");
        assert!(Page::new(2, &token, &[b"x"]).is_ok());
        assert!(Page::new(2, &token, &[b"y"]).is_err());
        assert!(Page::new(2, "zz", &[b"x"]).is_err());
    }
}
