"""The words of Stackwright as frozen records. They touch nothing."""
