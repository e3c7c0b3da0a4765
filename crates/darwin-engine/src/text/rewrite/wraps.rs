//! Where a template makes or searches text.

use super::{Rewriter, SHORT, Wrap, is_keyword, names};
use minijinja::machinery::Token;

impl Rewriter<'_> {
    /// Finds all calls that the template needs.
    pub(super) fn find_wraps(&mut self) {
        let mut i = 0;
        while i < self.tokens.len() {
            let end = self.partner[i];
            match self.tokens[i].0 {
                Token::VariableStart => self.expression(i + 1, end),
                Token::BlockStart => self.statement(i, end),
                _ => {}
            }
            i = end.max(i) + 1;
        }
    }

    fn statement(&mut self, start: usize, end: usize) {
        let first = start + 2;
        match self.token(start + 1) {
            Some(Token::Ident("for")) => {
                let within = |i: &usize| self.word(*i) == Some("in");
                let Some(at) = (first..end).find(within) else { return };
                let mut last = at + 1;
                while last < end && !matches!(self.word(last), Some("if" | "recursive")) {
                    last = self.partner[last].max(last) + 1;
                }
                if last > at + 1 && last <= end {
                    self.wrap(at + 1, last - 1, names::EACH);
                }
                self.expression(at + 1, end);
            }
            Some(Token::Ident("set")) => {
                let Some(at) = self.assignment(first, end) else { return };
                let dotted = (first..at).any(|i| matches!(self.token(i), Some(Token::Dot)));
                if at + 1 < end {
                    let name = if dotted { names::SET_ATTRIBUTE } else { names::SET };
                    self.wrap(at + 1, end - 1, name);
                }
                self.expression(at + 1, end);
            }
            Some(Token::Ident("call")) if matches!(self.token(first), Some(Token::ParenOpen)) => {
                self.expression(self.partner[first] + 1, end);
            }
            Some(Token::Ident(_)) => self.expression(first, end),
            _ => {}
        }
    }

    fn wrap(&mut self, from: usize, to: usize, name: &'static str) {
        self.wraps.push(Wrap { from, to, name, comma: None });
    }

    /// Whether a value ends with this token, so that what follows belongs to it.
    fn ends_value(&self, i: usize) -> bool {
        match self.token(i) {
            Some(Token::Ident(name)) => self.names_part(i) || !is_keyword(name),
            Some(
                Token::Str(_)
                | Token::String(_)
                | Token::Int(_)
                | Token::Int128(_)
                | Token::Float(_)
                | Token::ParenClose
                | Token::BracketClose
                | Token::BraceClose,
            ) => true,
            _ => false,
        }
    }

    /// Whether a value begins with this token of the expression that begins with `first`.
    fn begins_value(&self, i: usize, first: usize) -> bool {
        match self.token(i) {
            Some(Token::Ident(name)) => !self.names_part(i) && !is_keyword(name),
            Some(
                Token::Str(_)
                | Token::String(_)
                | Token::Int(_)
                | Token::Int128(_)
                | Token::Float(_),
            ) => true,
            Some(Token::ParenOpen | Token::BracketOpen | Token::BraceOpen) => {
                i == first || !self.ends_value(i - 1)
            }
            _ => false,
        }
    }

    /// The last token of a value that begins here, with its attributes, calls and filters.
    fn value_end(&self, from: usize) -> usize {
        let mut last = self.partner[from];
        // texts behind each other are one
        while matches!(self.token(last), Some(Token::Str(_) | Token::String(_)))
            && matches!(self.token(last + 1), Some(Token::Str(_) | Token::String(_)))
        {
            last += 1;
        }
        loop {
            match self.token(last + 1) {
                Some(Token::Dot | Token::Pipe) => last += 2,
                Some(Token::BracketOpen | Token::ParenOpen)
                    if self.partner[last + 1] > last + 1 =>
                {
                    last = self.partner[last + 1];
                }
                _ => return last,
            }
        }
    }

    /// The last token of an operand: signs, a value, its powers and tests.
    fn operand_end(&self, mut at: usize) -> usize {
        loop {
            while matches!(self.token(at), Some(Token::Minus)) {
                at += 1;
            }
            let mut last = if at < self.tokens.len() { self.value_end(at) } else { at };
            while matches!(self.token(last + 1), Some(Token::Ident("is"))) {
                last += 2;
                if matches!(self.token(last), Some(Token::Ident("not"))) {
                    last += 1;
                }
                last = self.value_end(last.min(self.tokens.len() - 1));
                if self.begins_value(last + 1, 0) {
                    last = self.value_end(last + 1);
                }
            }
            if !matches!(self.token(last + 1), Some(Token::Pow)) {
                return last;
            }
            at = last + 2;
        }
    }

    fn is_literal(&self, from: usize, to: usize) -> bool {
        from == to
            && match self.token(from) {
                Some(Token::Str(text)) => text.len() <= SHORT,
                Some(Token::String(text)) => text.len() <= SHORT,
                Some(Token::Int(_) | Token::Int128(_) | Token::Float(_)) => true,
                Some(Token::Ident(name)) => {
                    matches!(*name, "true" | "True" | "false" | "False" | "none" | "None")
                }
                _ => false,
            }
    }

    /// Wraps what needs it in the tokens of an expression, or of several with commas.
    fn expression(&mut self, first: usize, end: usize) {
        // where the factors began that a `*` here would multiply
        let mut factors: Option<usize> = None;
        for i in first..end {
            if self.begins_value(i, first) {
                let mut start = i;
                while start > first
                    && matches!(self.token(start - 1), Some(Token::Minus))
                    && (start - 1 == first || !self.ends_value(start - 2))
                {
                    start -= 1;
                }
                let continues = start > first
                    && matches!(
                        self.token(start - 1),
                        Some(Token::Mul | Token::Div | Token::FloorDiv | Token::Mod | Token::Pow)
                    )
                    && self.ends_value(start.saturating_sub(2));
                if !continues {
                    factors = Some(start);
                }
                self.value(i, first);
                self.multiply(i, first, factors);
            }
        }
    }

    /// Wraps a product whose left side ends with the value that begins here.
    fn multiply(&mut self, value: usize, first: usize, factors: Option<usize>) {
        let last = self.value_end(value);
        let Some(from) = factors.filter(|from| *from >= first) else { return };
        if matches!(self.token(last + 1), Some(Token::Mul)) {
            let to = self.operand_end(last + 2);
            self.wraps.push(Wrap { from, to, name: names::TIMES, comma: Some(last + 1) });
        }
    }

    /// Wraps a value where it is an operand, and what it is made of.
    fn value(&mut self, from: usize, first: usize) {
        let to = self.value_end(from);
        let close = self.partner[from];
        self.literal(from, close, to);
        // a sign belongs to the value before its attributes and filters do, and makes a number of it
        let negated = from > first
            && matches!(self.token(from - 1), Some(Token::Minus))
            && (from - 1 == first || !self.ends_value(from - 2));
        let mut at = close;
        while at < to {
            let open = at + 1;
            let end = self.partner[open];
            if end > open && !negated && matches!(self.token(open), Some(Token::BracketOpen)) {
                self.subscript(from, open, end);
            }
            if end > open + 1 && matches!(self.token(open), Some(Token::ParenOpen)) {
                // methods of loops that no callback sees
                match self.token(at) {
                    Some(Token::Ident("changed")) => self.wrap(open + 1, end - 1, names::ALL),
                    Some(Token::Ident("loop")) => self.wrap(open + 1, end - 1, names::EACH),
                    _ => {}
                }
            }
            at = if end > open { end } else { open };
        }
        let before = if from > first { self.token(from - 1) } else { None };
        let after = self.token(to + 1);
        let joins = |t: Option<&Token<'_>>| matches!(t, Some(Token::Tilde | Token::Plus));
        let compares = |t: Option<&Token<'_>>| {
            use Token as T;
            matches!(t, Some(T::Eq | T::Ne | T::Lt | T::Lte | T::Gt | T::Gte))
        };
        let literal = self.is_literal(from, to);
        if negated {
            return;
        }
        if from > first && self.word(from - 1) == Some("in") {
            self.wrap(from, to, names::WITHIN);
        } else if literal {
            // nothing to charge: what is compared with it costs no more than it
        } else if joins(before) || joins(after) {
            self.wrap(from, to, names::CAT);
        } else if self.is_within(to + 1)
            || compares(before) && !(from > first + 1 && self.is_lone_literal(from - 2, first))
            || compares(after) && !self.is_short_operand(to + 2)
        {
            self.wrap(from, to, names::COMPARE);
        }
    }

    /// Whether `in` or `not in` stands here.
    fn is_within(&self, i: usize) -> bool {
        match self.word(i) {
            Some("in") => true,
            Some("not") => self.word(i + 1) == Some("in"),
            _ => false,
        }
    }

    fn is_lone_literal(&self, at: usize, first: usize) -> bool {
        self.is_literal(at, at)
            && (at == first || !(self.ends_value(at - 1) || self.is_arithmetic(at - 1)))
    }

    fn is_short_operand(&self, at: usize) -> bool {
        self.is_literal(at, at) && !self.is_arithmetic(at + 1) && self.value_end(at) == at
    }

    fn is_arithmetic(&self, at: usize) -> bool {
        use Token as T;
        matches!(
            self.token(at),
            Some(
                T::Plus
                    | T::Minus
                    | T::Tilde
                    | T::Mul
                    | T::Div
                    | T::FloorDiv
                    | T::Mod
                    | T::Pow
                    | T::Dot
                    | T::Pipe
            )
        )
    }

    /// Wraps a list, a tuple or a mapping that is written out, and a mapping's keys.
    fn literal(&mut self, from: usize, close: usize, to: usize) {
        let (commas, colons) = self.separators(from, close);
        let constant = !(from..close).any(|i| matches!(self.token(i), Some(Token::Ident(_))));
        let whole = match self.token(from) {
            Some(Token::BracketOpen) => true,
            // names on the left of an assignment
            Some(Token::ParenOpen) => {
                let assigned = close == to && matches!(self.token(close + 1), Some(Token::Assign));
                !commas.is_empty() && !assigned
            }
            Some(Token::BraceOpen) => {
                let mut ends = commas.iter().copied().peekable();
                for colon in colons {
                    let mut key = from + 1;
                    while let Some(comma) = ends.next_if(|comma| *comma < colon) {
                        key = comma + 1;
                    }
                    if colon > key && !self.is_literal(key, colon - 1) {
                        self.wrap(key, colon - 1, names::KEY);
                    }
                }
                true
            }
            _ => false,
        };
        if whole && !constant {
            self.wrap(from, close, names::LIST);
        }
    }

    /// The commas and colons of a bracket's own level.
    fn separators(&self, from: usize, close: usize) -> (Vec<usize>, Vec<usize>) {
        let (mut commas, mut colons) = (Vec::new(), Vec::new());
        let mut at = from + 1;
        while at < close {
            match self.token(at) {
                Some(Token::Comma) => commas.push(at),
                Some(Token::Colon) => colons.push(at),
                _ => {}
            }
            at = self.partner[at].max(at) + 1;
        }
        (commas, colons)
    }

    /// Wraps what a subscript is taken of, and the subscript.
    fn subscript(&mut self, from: usize, open: usize, end: usize) {
        let (_, colons) = self.separators(open, end);
        let text = matches!(self.token(open + 1), Some(Token::Str(_) | Token::String(_)));
        if !colons.is_empty() {
            self.wrap(from, open - 1, names::CUT);
        } else if !(text && open + 2 == end) {
            self.wrap(from, open - 1, names::AT);
            if open + 1 < end && !self.is_literal(open + 1, end - 1) {
                self.wrap(open + 1, end - 1, names::KEY);
            }
        }
    }
}
