import Config

# Standard output belongs to nobody here, but a service's log is expected on standard error.
format = "$dateT$timeZ level=$level $message\n"

if Version.match?(System.version(), ">= 1.15.0") do
  config :logger, :default_handler, config: [type: :standard_error]
  config :logger, :default_formatter, format: format
else
  config :logger, :console, device: :standard_error, format: format
end

config :logger, utc_log: true, handle_sasl_reports: false
