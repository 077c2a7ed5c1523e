//! Which engine: what a person asks for, and what this CPU has.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::engine::Engine;
use crate::portable::Portable;
use crate::wide::Wide;

/// What `--engine` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// The fastest that this CPU has.
    #[default]
    Auto,
    /// One packet after the other, on every CPU.
    Portable,
    /// Many packets at once, in the widest registers of this CPU.
    Wide,
    /// Many packets at once in 256-bit registers, also where there are wider ones.
    Wide256,
}

/// Why there is no engine.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChoiceError {
    /// None has this name.
    #[error("there is no engine {0}; there are: auto, portable, wide, wide-256")]
    Unknown(String),
    /// This CPU lacks what it needs.
    #[error(
        "this CPU lacks what the engine {0} needs: AVX2, VAES and VPCLMULQDQ at least; take auto or portable"
    )]
    Unsupported(EngineChoice),
}

impl EngineChoice {
    /// All that can be asked for.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Portable, Self::Wide, Self::Wide256];

    /// The engine.
    pub fn engine(self) -> Result<Arc<dyn Engine>, ChoiceError> {
        let wide = match self {
            Self::Portable => None,
            Self::Auto | Self::Wide => Wide::detect(),
            Self::Wide256 => Wide::levels().into_iter().next(),
        };
        match (self, wide) {
            (_, Some(wide)) => Ok(Arc::new(wide)),
            (Self::Auto | Self::Portable, None) => Ok(Arc::new(Portable)),
            (Self::Wide | Self::Wide256, None) => Err(ChoiceError::Unsupported(self)),
        }
    }

    /// As it is written.
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Portable => "portable",
            Self::Wide => "wide",
            Self::Wide256 => "wide-256",
        }
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keyword())
    }
}

impl FromStr for EngineChoice {
    type Err = ChoiceError;

    fn from_str(name: &str) -> Result<Self, ChoiceError> {
        Self::ALL
            .into_iter()
            .find(|choice| choice.keyword() == name)
            .ok_or_else(|| ChoiceError::Unknown(name.to_owned()))
    }
}

/// One of each kind that this CPU has.
#[cfg(test)]
pub(crate) fn every_engine() -> Vec<Arc<dyn Engine>> {
    let wide = Wide::levels().into_iter();
    let wide = wide.map(|wide| Arc::new(wide) as Arc<dyn Engine>);
    std::iter::once(Arc::new(Portable) as Arc<dyn Engine>)
        .chain(wide)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn keywords_come_back() {
        for choice in EngineChoice::ALL {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!(
            "narrow".parse::<EngineChoice>().unwrap_err().to_string(),
            "there is no engine narrow; there are: auto, portable, wide, wide-256"
        );
    }

    #[test]
    fn what_is_asked_for_is_what_there_is() {
        let name = |choice: EngineChoice| choice.engine().map(|engine| engine.name());
        assert_eq!(name(EngineChoice::Portable), Ok("portable"));
        let widest = Wide::detect().map(|wide| wide.name());
        assert_eq!(name(EngineChoice::Auto), Ok(widest.unwrap_or("portable")));
        assert_eq!(name(EngineChoice::Wide).ok(), widest);
        assert_eq!(name(EngineChoice::Wide256).ok(), widest.map(|_| "wide-256"));
    }
}
