//! Network laboratories on one machine: namespaces, virtual Ethernet pairs, captures and probes.
