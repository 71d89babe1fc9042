//! Files of one model that disagree: decided as transformers decides, or refused.
