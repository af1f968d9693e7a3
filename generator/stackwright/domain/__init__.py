"""The words of Stackwright as frozen dataclasses. Standard library only; touches nothing."""
