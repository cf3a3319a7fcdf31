import Config

# Standard output belongs to nobody here, but a service's log is expected on standard error.
format = {Brain.Log, :format}

if Version.match?(System.version(), ">= 1.15.0") do
  config :logger, :default_handler, config: [type: :standard_error]
  config :logger, :default_formatter, format: format, metadata: [:fields]
else
  config :logger, :console, device: :standard_error, format: format, metadata: [:fields]
end

config :logger, utc_log: true, handle_sasl_reports: false
