//! Rust source, split into code, comments and string literals, and into production and test lines.
//!
//! The compiler's own lexer finds the tokens. No rule needs a syntax tree, because brackets show where items end.

use ra_ap_rustc_lexer::{FrontmatterAllowed, LiteralKind, TokenKind, tokenize};

/// One token of the code: an identifier, a lifetime, a number, `::`, or a single other character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) line: usize,
    pub(super) text: String,
}

/// A piece of text with the line that it starts at, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) line: usize,
    pub(super) text: String,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    pub(super) tokens: Vec<Token>,
    pub(super) strings: Vec<Piece>,
    /// For each string, how many tokens are before it.
    pub(super) string_places: Vec<usize>,
    /// The comments, a piece for each of their lines.
    pub(super) comments: Vec<Piece>,
    pub(super) line_count: usize,
    /// The names of the modules that are declared for tests alone and lie in files of their own.
    pub(super) test_modules: Vec<String>,
    test_lines: Vec<std::ops::RangeInclusive<usize>>,
}

impl Source {
    pub(super) fn new(text: &str) -> Source {
        let mut reader = Reader {
            line: 1,
            source: Source::default(),
            is_after_colon: false,
        };
        let mut rest = text;
        for token in tokenize(text, FrontmatterAllowed::No) {
            let (token_text, after) = rest.split_at(token.len as usize);
            reader.take(token.kind, token_text);
            rest = after;
        }
        let mut source = reader.source;
        source.line_count = text.lines().count();
        source.find_tests();
        source
    }

    /// Whether a line belongs to an item that is compiled for tests alone.
    pub(super) fn is_test(&self, line: usize) -> bool {
        self.test_lines.iter().any(|lines| lines.contains(&line))
    }

    /// The number of lines outside of items for tests.
    pub(super) fn production_line_count(&self) -> usize {
        (1..=self.line_count)
            .filter(|&line| !self.is_test(line))
            .count()
    }

    /// Returns the lines at which the tokens of `pattern` follow each other.
    pub(super) fn find(&self, pattern: &[&str]) -> Vec<usize> {
        let is_match = |window: &&[Token]| {
            window
                .iter()
                .map(|token| token.text.as_str())
                .eq(pattern.iter().copied())
        };
        self.tokens
            .windows(pattern.len())
            .filter(is_match)
            .map(|window| window[0].line)
            .collect()
    }

    fn find_tests(&mut self) {
        let mut at = 0;
        while at < self.tokens.len() {
            let Some(after) = self.test_attribute(at) else {
                at += 1;
                continue;
            };
            let first = self.tokens[at].line;
            if self
                .tokens
                .get(at + 1)
                .is_some_and(|token| token.text == "!")
            {
                self.test_lines.push(1..=self.line_count);
                return;
            }
            let end = self.item_end(after);
            let item: Vec<&str> = self.tokens[after..=end]
                .iter()
                .map(|token| token.text.as_str())
                .collect();
            if let [.., "mod", name, ";"] = item[..] {
                self.test_modules.push(name.to_owned());
            }
            self.test_lines.push(first..=self.tokens[end].line);
            at = end + 1;
        }
    }

    /// Returns the place after an attribute at `at` that keeps an item for tests alone, if one is there.
    fn test_attribute(&self, at: usize) -> Option<usize> {
        let text = |index: usize| self.tokens.get(index).map(|token| token.text.as_str());
        if text(at) != Some("#") {
            return None;
        }
        let open = if text(at + 1) == Some("!") {
            at + 2
        } else {
            at + 1
        };
        if text(open) != Some("[") {
            return None;
        }
        let close = self.closing(open);
        let words: Vec<&str> = self.tokens[open..close]
            .iter()
            .map(|token| token.text.as_str())
            .collect();
        let is_test = words.get(1) == Some(&"test") && words.len() == 2
            || words.get(1) == Some(&"cfg") && words.contains(&"test") && !words.contains(&"not");
        is_test.then_some(close + 1)
    }

    /// Returns the last token of the item that starts at `at`, further attributes included.
    fn item_end(&self, mut at: usize) -> usize {
        while at < self.tokens.len() {
            match self.tokens[at].text.as_str() {
                "(" | "[" => at = self.closing(at),
                "{" => return self.closing(at),
                ";" => return at,
                _ => {}
            }
            at += 1;
        }
        self.tokens.len() - 1
    }

    /// Returns the strings between two tokens, without the reasons that `expect` takes.
    pub(super) fn strings_between(&self, first: usize, last: usize) -> Vec<&Piece> {
        let is_reason = |place: usize| place >= 2 && self.tokens[place - 2].text == "expect";
        let places = self.string_places.iter().zip(&self.strings);
        let inside = places.filter(|(place, _)| (first + 1..=last).contains(*place));
        let inside = inside.filter(|(place, _)| !is_reason(**place));
        inside.map(|(_, piece)| piece).collect()
    }

    /// Returns the bracket that closes the one at `open`, or the last token.
    pub(super) fn closing(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for (index, token) in self.tokens.iter().enumerate().skip(open) {
            match token.text.as_str() {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return index;
            }
        }
        self.tokens.len() - 1
    }
}

/// A source that is being read: how far it has been read, and what was found so far.
struct Reader {
    line: usize,
    source: Source,
    is_after_colon: bool,
}

impl Reader {
    /// Adds the next token, whose text is `text`.
    fn take(&mut self, kind: TokenKind, text: &str) {
        let is_second_colon = kind == TokenKind::Colon && self.is_after_colon;
        self.is_after_colon = kind == TokenKind::Colon && !is_second_colon;
        match kind {
            TokenKind::Whitespace => {}
            TokenKind::LineComment { .. } | TokenKind::BlockComment { .. } => {
                let lines = text.lines().enumerate();
                self.source.comments.extend(lines.map(|(n, text)| Piece {
                    line: self.line + n,
                    text: text.to_owned(),
                }));
            }
            TokenKind::Literal { kind, suffix_start } => {
                let text = &text[..suffix_start as usize];
                match contents(kind, text) {
                    Contents::Number => self.push(text),
                    Contents::Character => {}
                    Contents::String(contents) => {
                        let place = self.source.tokens.len();
                        self.source.string_places.push(place);
                        self.source.strings.push(Piece {
                            line: self.line,
                            text: contents.to_owned(),
                        });
                    }
                }
            }
            // `r#type` means what `type` would, were it no keyword.
            TokenKind::RawIdent => self.push(text.trim_start_matches("r#")),
            TokenKind::Colon if is_second_colon => {
                if let Some(first) = self.source.tokens.last_mut() {
                    "::".clone_into(&mut first.text);
                }
            }
            _ => self.push(text),
        }
        self.line += text.matches('\n').count();
    }

    fn push(&mut self, text: &str) {
        self.source.tokens.push(Token {
            line: self.line,
            text: text.to_owned(),
        });
    }
}

/// The part of a literal that rules look at.
enum Contents<'a> {
    Number,
    Character,
    /// The text between the quotes, with escapes as they are written.
    String(&'a str),
}

fn contents(kind: LiteralKind, text: &str) -> Contents<'_> {
    match kind {
        LiteralKind::Int { .. } | LiteralKind::Float { .. } => Contents::Number,
        LiteralKind::Char { .. } | LiteralKind::Byte { .. } => Contents::Character,
        LiteralKind::Str { .. }
        | LiteralKind::ByteStr { .. }
        | LiteralKind::CStr { .. }
        | LiteralKind::RawStr { .. }
        | LiteralKind::RawByteStr { .. }
        | LiteralKind::RawCStr { .. } => {
            let is_raw = text.trim_start_matches(['b', 'c']).starts_with('r');
            let open = text.find('"').map_or(text.len(), |at| at + 1);
            let inner = &text[open..];
            let inner = if is_raw {
                inner.trim_end_matches('#')
            } else {
                inner
            };
            Contents::String(inner.strip_suffix('"').unwrap_or(inner))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        Source::new(text)
            .tokens
            .into_iter()
            .map(|token| token.text)
            .collect()
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        let source =
            Source::new("a /* b /* c */ d */ \"e \\\" f\" // g\nr#\"h \" i\"# br\"j\" b\"k\" l");
        let strings: Vec<&str> = source
            .strings
            .iter()
            .map(|piece| piece.text.as_str())
            .collect();
        let comments: Vec<&str> = source
            .comments
            .iter()
            .map(|piece| piece.text.as_str())
            .collect();
        assert_eq!(strings, ["e \\\" f", "h \" i", "j", "k"]);
        assert_eq!(comments, ["/* b /* c */ d */", "// g"]);
        assert_eq!(
            source.tokens,
            [
                Token {
                    line: 1,
                    text: "a".into()
                },
                Token {
                    line: 2,
                    text: "l".into()
                }
            ]
        );
    }

    #[test]
    fn pieces_know_the_lines_that_they_start_at() {
        let source = Source::new("/* a\n b */\nc \"d\ne\" f");
        let comments: Vec<usize> = source.comments.iter().map(|piece| piece.line).collect();
        assert_eq!(comments, [1, 2]);
        let tokens: Vec<usize> = source.tokens.iter().map(|token| token.line).collect();
        assert_eq!(tokens, [3, 4]);
        assert_eq!(source.strings[0].line, 3);
    }

    #[test]
    fn quotes_open_characters_or_lifetimes() {
        assert_eq!(words("'\"' x '\\'' y b'\\n' z '{'"), ["x", "y", "z"]);
        assert_eq!(words("&'a str"), ["&", "'a", "str"]);
        assert_eq!(words("r#type c brr"), ["type", "c", "brr"]);
        assert_eq!(words("std::env"), ["std", "::", "env"]);
    }

    #[test]
    fn unfinished_text_ends_the_scan() {
        for text in [
            "\"open",
            "/* open",
            "r#\"open",
            "'",
            "b'",
            "#[cfg(test",
            "\"\\",
        ] {
            Source::new(text);
        }
    }

    #[test]
    fn items_for_tests_are_found_with_their_extent() {
        let source = Source::new(
            "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n  fn b() { {} }\n}\nfn c() {}\n",
        );
        let tests: Vec<usize> = (1..=7).filter(|&line| source.is_test(line)).collect();
        assert_eq!(tests, [2, 3, 4, 5, 6]);
        assert_eq!(source.production_line_count(), 2);
        let source =
            Source::new("#[cfg(all(test, unix))]\nmod laws;\nfn c() {}\n#[test]\nfn d() {\n}\n");
        assert_eq!(source.test_modules, ["laws"]);
        assert_eq!(source.production_line_count(), 1);
        assert_eq!(
            Source::new("#![cfg(test)]\nfn a() {}\n").production_line_count(),
            0
        );
        assert_eq!(
            Source::new("#[cfg(not(test))]\nfn a() {}\n").production_line_count(),
            2
        );
    }
}
