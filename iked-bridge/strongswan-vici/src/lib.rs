//! strongswan-vici
