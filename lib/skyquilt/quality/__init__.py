"""Services for Data Quality Analysis (LDM-151 6): numbers apart from plots and pages."""
