//! Pages of lists.
//!
//! A page token is a digest of the request's filters and the sort key of the last item that was sent, in hexadecimal.
//! With the digest the token of another request is refused; without it the wrong items would be sent.

use prost::Message;

use crate::api::failure::{Failure, Result};
use crate::limits::{PAGE_BYTES_MAX, PAGE_DEFAULT, PAGE_MAX};

/// The page that a request asks for.
pub(crate) struct Page {
    size: usize,
    filters: String,
    after: Option<Vec<u8>>,
}

impl Page {
    /// Reads the page of a request. `size` is the number of items, 0 for [`PAGE_DEFAULT`]. `filters` are the fields
    /// that must be the same in the requests for all pages of a list.
    ///
    /// # Errors
    /// When the token belongs to a request with other filters.
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

    /// The most items of the page.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The sort key of the last item of the page before; `None` on the first page.
    pub(crate) fn after(&self) -> Option<&[u8]> {
        self.after.as_deref()
    }

    /// The token of the page that begins after the item with this sort key.
    pub(crate) fn token(&self, key: &[u8]) -> String {
        format!("{}{}", self.filters, hex::encode(key))
    }

    /// Cuts the page out of all items of the list, which need no order. Returns it with the token of the next page,
    /// which is empty on the last page.
    pub(crate) fn cut<T: Message>(&self, items: Vec<(Vec<u8>, T)>) -> (Vec<T>, String) {
        self.cut_by(items, item_bytes)
    }

    /// Cuts the page as [`Page::cut`] does, without a bound on bytes: for items of which [`PAGE_MAX`] fit a message.
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
        // A page has at least one item, however large it is. Whoever makes large items must shorten them.
        let count = fit.count().max(1).min(items.len() - from);
        let token = match items.len() > from + count {
            true => self.token(&items[from + count - 1].0),
            false => String::new(),
        };
        let page = items.into_iter().skip(from).take(count);
        (page.map(|(_, item)| item).collect(), token)
    }
}

/// The most bytes that an item adds to the message of its page.
pub(crate) fn item_bytes(item: &impl Message) -> usize {
    // The item's tag and length come before it.
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
