//! Rust source, told apart into code, comments and string literals, and into production and test lines.
//!
//! A few states are enough, as no rule needs a syntax tree: comments nest, strings may be raw, and a quote may
//! open a character or a lifetime.

/// One token of the code: an identifier, a number, `::`, or a single other character.
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

/// A file of Rust source.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    pub(super) tokens: Vec<Token>,
    pub(super) strings: Vec<Piece>,
    /// One for each line of a comment.
    pub(super) comments: Vec<Piece>,
    pub(super) line_count: usize,
    /// The names of the modules that are declared for tests alone and lie in files of their own.
    pub(super) test_modules: Vec<String>,
    test_lines: Vec<std::ops::RangeInclusive<usize>>,
}

impl Source {
    /// Takes a text apart.
    pub(super) fn new(text: &str) -> Source {
        let mut source = Scanner {
            chars: text.chars().collect(),
            at: 0,
            line: 1,
            source: Source::default(),
        }
        .scan();
        source.line_count = text.lines().count();
        source.find_tests();
        source
    }

    /// Whether a line belongs to an item that is compiled for tests alone.
    pub(super) fn is_test(&self, line: usize) -> bool {
        self.test_lines.iter().any(|lines| lines.contains(&line))
    }

    /// The number of lines outside of such items.
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

    /// Returns the bracket that closes the one at `open`, or the last token.
    fn closing(&self, open: usize) -> usize {
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

struct Scanner {
    chars: Vec<char>,
    at: usize,
    line: usize,
    source: Source,
}

impl Scanner {
    fn scan(mut self) -> Source {
        while let Some(next) = self.peek(0) {
            match (next, self.peek(1)) {
                ('/', Some('/')) => self.line_comment(),
                ('/', Some('*')) => self.block_comment(),
                ('"', _) => self.string(),
                ('r' | 'b' | 'c', _) if self.literal_prefix().is_some() => {
                    let (letters, hashes) = self.literal_prefix().expect("it was just seen");
                    self.prefixed_literal(letters, hashes);
                }
                ('\'', _) => self.quote(),
                (':', Some(':')) => {
                    self.push("::".to_owned());
                    self.at += 2;
                }
                (c, _) if is_word(c) => self.word(),
                (c, _) if c.is_whitespace() => self.skip(),
                (c, _) => {
                    self.push(c.to_string());
                    self.at += 1;
                }
            }
        }
        self.source
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    /// Goes on by one character, counting lines.
    fn skip(&mut self) {
        if self.peek(0) == Some('\n') {
            self.line += 1;
        }
        self.at += 1;
    }

    fn push(&mut self, text: String) {
        self.source.tokens.push(Token {
            line: self.line,
            text,
        });
    }

    fn word(&mut self) {
        let start = self.at;
        while self.peek(0).is_some_and(is_word) {
            self.at += 1;
        }
        self.push(self.chars[start..self.at].iter().collect());
    }

    fn line_comment(&mut self) {
        let start = self.at;
        while self.peek(0).is_some_and(|c| c != '\n') {
            self.at += 1;
        }
        let text = self.chars[start..self.at].iter().collect();
        self.source.comments.push(Piece {
            line: self.line,
            text,
        });
    }

    fn block_comment(&mut self) {
        let (start, first_line) = (self.at, self.line);
        let mut depth = 0_usize;
        while let Some(next) = self.peek(0) {
            let step = match (next, self.peek(1)) {
                ('/', Some('*')) => {
                    depth += 1;
                    2
                }
                ('*', Some('/')) => {
                    depth -= 1;
                    2
                }
                _ => 1,
            };
            (0..step).for_each(|_| self.skip());
            if depth == 0 {
                break;
            }
        }
        let text: String = self.chars[start..self.at.min(self.chars.len())]
            .iter()
            .collect();
        let lines = text.lines().enumerate();
        self.source.comments.extend(lines.map(|(n, text)| Piece {
            line: first_line + n,
            text: text.to_owned(),
        }));
    }

    /// Reads a literal with escapes whose opening quote is at the place reached.
    fn string(&mut self) {
        let line = self.line;
        self.skip();
        let start = self.at;
        while let Some(next) = self.peek(0) {
            match next {
                '"' => break,
                '\\' => {
                    self.skip();
                    self.skip();
                }
                _ => self.skip(),
            }
        }
        self.close_string(line, start, 1);
    }

    /// Returns the letters and hashes before a quote, if a prefixed literal is here: `b"`, `r#"`, `br##"`, `b'`.
    fn literal_prefix(&self) -> Option<(usize, usize)> {
        let mut letters = 0;
        while letters < 2 && matches!(self.peek(letters), Some('r' | 'b' | 'c')) {
            letters += 1;
        }
        let is_raw = (0..letters).any(|index| self.peek(index) == Some('r'));
        let mut hashes = 0;
        while is_raw && self.peek(letters + hashes) == Some('#') {
            hashes += 1;
        }
        let quote = self.peek(letters + hashes)?;
        let is_byte = quote == '\'' && letters == 1 && self.peek(0) == Some('b');
        (quote == '"' || is_byte).then_some((letters, hashes))
    }

    fn prefixed_literal(&mut self, letters: usize, hashes: usize) {
        let is_raw = (0..letters).any(|index| self.peek(index) == Some('r'));
        self.at += letters + hashes;
        if self.peek(0) == Some('\'') {
            return self.quote();
        }
        if !is_raw {
            return self.string();
        }
        let line = self.line;
        self.skip();
        let start = self.at;
        while self.at < self.chars.len()
            && !(self.peek(0) == Some('"')
                && (1..=hashes).all(|ahead| self.peek(ahead) == Some('#')))
        {
            self.skip();
        }
        self.close_string(line, start, 1 + hashes);
    }

    fn close_string(&mut self, line: usize, start: usize, closing: usize) {
        let end = self.at.min(self.chars.len());
        let text = self.chars[start.min(end)..end].iter().collect();
        self.source.strings.push(Piece { line, text });
        self.at = end + closing;
    }

    /// Reads a character literal, or passes over the quote of a lifetime.
    fn quote(&mut self) {
        if self.peek(1) == Some('\\') {
            self.at += 3;
            while self.peek(0).is_some_and(|c| c != '\'') {
                self.skip();
            }
            self.at += 1;
        } else if self.peek(2) == Some('\'') {
            self.at += 3;
        } else {
            self.at += 1;
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
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
    fn quotes_open_characters_or_lifetimes() {
        assert_eq!(words("'\"' x '\\'' y b'\\n' z '{'"), ["x", "y", "z"]);
        assert_eq!(words("&'a str"), ["&", "a", "str"]);
        assert_eq!(words("r#type c brr"), ["r", "#", "type", "c", "brr"]);
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
